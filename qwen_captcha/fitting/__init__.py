"""Fitting a checkpoint to labelled captchas: what `qwen-captcha fit` does, shared with training."""
