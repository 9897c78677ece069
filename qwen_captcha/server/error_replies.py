"""Replies to requests that are answered before the application gets them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from gunicorn.http import errors as http_errors

from qwen_captcha.errors import REQUEST_FAILED, BadRequest, InternalError, TooLarge, error_body
from qwen_captcha.server.connection import RequestTimeout

# gunicorn's exception, status, `error_type` and sentence. The first match counts.
ERRORS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (http_errors.LimitRequestLine, 414, TooLarge.error_type, "The request line is too long."),
    (http_errors.LimitRequestHeaders, 431, TooLarge.error_type,
     "The request headers are too large."),
    (http_errors.ExpectationFailed, 417, BadRequest.error_type,
     "The Expect header can only be 100-continue."),
    (http_errors.UnsupportedTransferCoding, 501, BadRequest.error_type,
     "The Transfer-Encoding can only be chunked."),
    (RequestTimeout, 408, BadRequest.error_type, "The request was not sent in time."),
)  # fmt: skip
# Exceptions of gunicorn's parser that are about the reply or the configuration.
OWN_FAULTS = (
    http_errors.InvalidResponseHeader,
    http_errors.InvalidResponseHeaderName,
    http_errors.ConfigurationProblem,
)


def error_of(exc: Exception) -> tuple[int, str, str]:
    """Return status, `error_type` and sentence for an exception of gunicorn."""
    for kind, status, error_type, sentence in ERRORS:
        if isinstance(exc, kind):
            return status, error_type, sentence
    if isinstance(exc, http_errors.ParseException) and not isinstance(exc, OWN_FAULTS):
        return 400, BadRequest.error_type, "The request is not valid HTTP."
    return 500, InternalError.error_type, REQUEST_FAILED


def error_reply(
    status: int, error_type: str, sentence: str, headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a whole HTTP response with the JSON object of an error, in Flask's form.

    Args:
        status: The HTTP status.
        error_type: Of the JSON object.
        sentence: Its message.
        headers: Other headers than the content's; the connection is closed if there are none.
    """
    body = json.dumps(error_body(error_type, sentence), separators=(",", ":")) + "\n"
    lines = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **({"Connection": "close"} if headers is None else headers),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n{body}".encode()
