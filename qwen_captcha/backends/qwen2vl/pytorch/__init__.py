"""A Qwen2-VL checkpoint of any size, run by PyTorch."""
