"""`python -m qwen_captcha`: see `cli.py`."""

import sys

from qwen_captcha.cli import main

sys.exit(main())
