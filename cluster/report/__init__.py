"""The page that `bonrl report` writes: what a run did, from its directory."""
