"""The engine that runs a Qwen2-VL checkpoint in this process."""
