"""What a configuration needs of GPU and host memory, and whether it fits."""
