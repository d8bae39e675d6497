"""Chinese-CLIP in PyTorch."""
