"""The renderer of training captchas."""
