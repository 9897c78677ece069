"""The log of the process.

Responsible for: where it goes and what a line looks like. Leaves what is logged to the modules,
each with the logger of its own name. Invariant: stderr, and one line an event but for tracebacks.
"""

from __future__ import annotations

import logging
import logging.config

LINE_FORMAT = "%(asctime)s %(levelname)s %(message)s"


def configure_logging(level: str) -> None:
    """Send the log of this process to stderr.

    Args:
        level: Least severe messages of the service that are logged, in lower case; libraries
            log from `warning` on.
    """
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": LINE_FORMAT}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": "WARNING", "handlers": ["stderr"]},
            "loggers": {"qwen_captcha": {"level": level.upper()}},
        }
    )
