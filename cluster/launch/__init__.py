"""From actors to machines: which node each actor needs, and the files that start such a cluster on a platform."""
