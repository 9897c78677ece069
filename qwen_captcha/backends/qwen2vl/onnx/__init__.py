"""A small Qwen2-VL checkpoint, run by ONNX Runtime."""
