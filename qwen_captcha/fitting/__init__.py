"""Fitting a checkpoint to labelled captchas, the command `qwen-captcha fit`."""
