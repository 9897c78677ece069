"""What Qwen2-VL costs on a GPU, on random weights of the published shapes."""
