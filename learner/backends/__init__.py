"""The DeepSpeed engine and what belongs to it: models on disk, determinism, the reference policy."""
