"""A self-hosted reader of text captchas: Qwen2-VL behind a ddddocr-compatible HTTP service."""

import sys

__version__ = "2.0.0"

# Runs on older versions, too; the Makefile asks it before it makes an environment.
if sys.version_info < (3, 11):  # noqa: UP036
    raise SystemExit(
        "qwen-captcha needs Python 3.11 or newer, and this is Python {}.{}.".format(
            *sys.version_info[:2]
        )
    )
