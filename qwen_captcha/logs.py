"""The log of the process: one line for each event on stderr, as text or JSON.

In text a traceback follows its line, in JSON it is in it. This is the standard library's logging:
the libraries of this service log through it, and one formatter makes their lines JSON too.
"""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

LINE_FORMAT = "%(asctime)s %(levelname)s %(message)s"

# The id of the request that this thread serves; empty outside of a request.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return the further fields of a record: `extra={"fields": …}` and the request id."""
    fields: dict[str, object] = dict(getattr(record, "fields", {}))
    request_id = REQUEST_ID.get()
    return fields | ({"request_id": request_id} if request_id else {})


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as an object; times are UTC."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """A line for people: the message, then what else there is as `name=value`."""

    def __init__(self) -> None:
        super().__init__(LINE_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the line without a traceback."""
        fields = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        return super().formatMessage(record) + fields


FORMATTERS = {"json": JsonFormatter, "text": TextFormatter}


def configure_logging(level: str, log_format: str) -> None:
    """Send the log of this process to stderr.

    Args:
        level: Least severe messages of the service that are logged, in lower case; libraries
            log from `warning` on.
        log_format: `json`, `text`, or `auto`: text in a terminal, else JSON.
    """
    if log_format == "auto":
        log_format = "text" if sys.stderr.isatty() else "json"
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"()": FORMATTERS[log_format]}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": "WARNING", "handlers": ["stderr"]},
            "loggers": {"qwen_captcha": {"level": level.upper()}},
        }
    )
