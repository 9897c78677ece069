"""Rejections that cost almost nothing: requests for which a full queue has no place.

Responsible for: knowing, from bytes that have arrived, a request that the service would reject for
its load, and the reply to it. The application rejects every request that is in any way unusual
just as well, but in a thread of its own and ten times slower. A crowd of such threads takes the
interpreter from the model's thread, which asks for it after each operator.
Invariant: what is replied is what the application replies to a caller whom it lets in, byte for
byte but for `Date` and the times. Keys and rates are not looked at, as no caller gets more than
that.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus

from qwen_captcha.api.request_logging import (
    REQUEST_ID_HEADER,
    TIMING_HEADER,
    is_request_id,
    timing_of,
)
from qwen_captcha.api.security import BROWSER_HEADERS
from qwen_captcha.errors import CaptchaServiceError, QueueFull, error_body
from qwen_captcha.images.headers import image_format
from qwen_captcha.metrics import Metrics

ROUTE = "/ocr"
# Seconds between two lines in the log.
SUMMARY_S = 1.0
# What asks for more than the plain reply: another origin, other framing, another protocol.
_SPECIAL_HEADERS = (b"origin", b"transfer-encoding", b"expect", b"upgrade", b"content-encoding")
_REQUEST_ID = REQUEST_ID_HEADER.lower().encode()
_OWN_JSON = re.compile(rb'^\s*\{[^{]*"image_base64"\s*:')
_OWN_FILE = re.compile(rb'\r\ncontent-disposition: form-data; name="image"; filename=', re.I)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PlainRequest:
    """A whole request to read one image, in one of this service's own forms.

    Attributes:
        headers: By name in lower case.
        keeps_alive: Whether the connection stays.
    """

    headers: Mapping[bytes, bytes]
    keeps_alive: bool


def plain_request(received: bytes) -> PlainRequest | None:
    """Return the request that some bytes are; None where they are more, less or anything else.

    A caller in a dialect gets its rejection in that dialect, from the application.
    """
    head, end, body = received.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    if not end or line != b"POST /ocr HTTP/1.1":
        return None
    headers: dict[bytes, bytes] = {}
    for field in fields:
        name, colon, value = field.partition(b":")
        name = name.lower()
        if not colon or name in headers:
            return None
        headers[name] = value.strip()
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or int(length) != len(body):
        return None
    if any(name in headers for name in _SPECIAL_HEADERS) or not _is_own(body):
        return None
    connection = headers.get(b"connection", b"keep-alive").lower()
    if connection not in (b"keep-alive", b"close"):
        return None
    return PlainRequest(headers, connection == b"keep-alive")


def _is_own(body: bytes) -> bool:
    """Return whether a body is in a form that no dialect has."""
    start = body[:2048]
    return image_format(body) is not None or bool(_OWN_JSON.match(start) or _OWN_FILE.search(start))


class LoadShedder:
    """Writes, counts and logs the replies to plain requests; used by one thread.

    Args:
        metrics: Of the service that has no place for them.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._requests = metrics.requests.labels(ROUTE, str(QueueFull.status))
        self._seconds = metrics.request_seconds.labels(ROUTE)
        self._rejected = metrics.rejections.labels(QueueFull.error_type)
        self._untold = 0
        self._told = 0.0

    def reply(self, request: PlainRequest, error: CaptchaServiceError, *, close: bool) -> bytes:
        """Return the whole reply to a request, counted; `close` says that it is the last one."""
        start = time.monotonic()
        given = request.headers.get(_REQUEST_ID, b"").decode("latin-1")
        # Not from the system's randomness: that call would hand the interpreter over.
        request_id = given if is_request_id(given) else f"{random.getrandbits(128):032x}"
        head, body = _fixed_parts(error.status, error.error_type, error.message)
        seconds = time.monotonic() - start
        self._count(error, seconds)
        return (
            f"{head}Connection: {'close' if close else 'keep-alive'}\r\n"
            f"Retry-After: {error.retry_after_s}\r\n"
            f"{REQUEST_ID_HEADER}: {request_id}\r\n"
            f"{TIMING_HEADER}: {timing_of({'total': seconds})}\r\n\r\n{body}"
        ).encode()

    def _count(self, error: CaptchaServiceError, seconds: float) -> None:
        self._requests.inc()
        self._seconds.observe(seconds)
        self._rejected.inc()
        self._untold += 1
        now = time.monotonic()
        if now - self._told >= SUMMARY_S:
            # A line for each would cost more than the rejection.
            log.warning("Refused %d requests at once: %s", self._untold, error.message)
            self._untold, self._told = 0, now


@lru_cache(maxsize=16)
def _fixed_parts(status: int, error_type: str, message: str) -> tuple[str, str]:
    """Return what all replies to one error have in common: the first headers, and the body."""
    body = json.dumps(error_body(error_type, message), separators=(",", ":")) + "\n"
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **BROWSER_HEADERS,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}", body
