"""A self-hosted reader of text captchas: Qwen2-VL behind a ddddocr-compatible HTTP service."""

__version__ = "2.0.0"
