"""Build TensorRT engines from ONNX files, and verify them."""
