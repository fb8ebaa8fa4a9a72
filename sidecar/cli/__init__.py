"""The commands of ``python -m sidecar``."""
