"""DeepSpeed, adapters, compiled layers, packing, models on disk, determinism, and the reference policy."""
