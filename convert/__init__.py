"""Convert PyTorch checkpoints to engines, and verify each against float32 PyTorch."""
