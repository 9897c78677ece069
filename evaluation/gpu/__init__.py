"""Measurements of Qwen2-VL on a GPU, with random weights of the published shapes."""
