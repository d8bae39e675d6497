"""From the PyTorch model to ONNX files."""
