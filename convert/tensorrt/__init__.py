"""From ONNX files to TensorRT engines that are proven."""
