"""The worker's processes."""
