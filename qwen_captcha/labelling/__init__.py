"""The command `qwen-captcha label`: a local page on which a person labels a folder of captchas."""
