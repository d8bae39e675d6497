"""Download, read and check checkpoints."""
