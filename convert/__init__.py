"""From a PyTorch checkpoint to proven engines."""
