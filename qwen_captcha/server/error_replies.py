"""What gunicorn answers by itself, before the application sees a request, as the one JSON object.

Responsible for: status, `error_type` and sentence for each of gunicorn's exceptions, and the bytes
of the reply.
"""

from __future__ import annotations

import json

from gunicorn.http import errors as http_errors

from qwen_captcha.errors import BadRequest, InternalError, TooLarge, error_body
from qwen_captcha.server.connection import RequestTimeout

# What gunicorn rejects: status, reason, `error_type` and sentence. The first match counts.
ERRORS: tuple[tuple[type[Exception], int, str, str, str], ...] = (
    (http_errors.InvalidResponseHeader, 500, "Internal Server Error",
     InternalError.error_type, "The service failed on this request."),
    (http_errors.InvalidResponseHeaderName, 500, "Internal Server Error",
     InternalError.error_type, "The service failed on this request."),
    (http_errors.ConfigurationProblem, 500, "Internal Server Error",
     InternalError.error_type, "The service failed on this request."),
    (http_errors.LimitRequestLine, 414, "URI Too Long",
     TooLarge.error_type, "The request line is too long."),
    (http_errors.LimitRequestHeaders, 431, "Request Header Fields Too Large",
     TooLarge.error_type, "The request headers are too large."),
    (http_errors.ExpectationFailed, 417, "Expectation Failed",
     BadRequest.error_type, "The Expect header can only be 100-continue."),
    (http_errors.UnsupportedTransferCoding, 501, "Not Implemented",
     BadRequest.error_type, "The Transfer-Encoding can only be chunked."),
    (RequestTimeout, 408, "Request Timeout",
     BadRequest.error_type, "The request was not sent in time."),
    (http_errors.ParseException, 400, "Bad Request",
     BadRequest.error_type, "The request is not valid HTTP."),
    (Exception, 500, "Internal Server Error",
     InternalError.error_type, "The service failed on this request."),
)  # fmt: skip


def error_of(exc: Exception) -> tuple[int, str, str, str]:
    """Return status, reason, `error_type` and sentence for an exception of gunicorn."""
    return next(error for kind, *error in ERRORS if isinstance(exc, kind))  # type: ignore[return-value]


def error_reply(status: int, reason: str, error_type: str, sentence: str) -> bytes:
    """Return a whole HTTP response with the JSON object of an error."""
    body = json.dumps(error_body(error_type, sentence)).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\n"
        "Connection: close\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
