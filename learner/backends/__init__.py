"""The DeepSpeed engine, models on disk, determinism, and the reference policy."""
