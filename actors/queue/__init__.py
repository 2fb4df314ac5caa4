"""The replay queue without Ray: slots and order, the log of groups, snapshots and the prompt stream."""
