"""Export the PyTorch model to ONNX files."""
