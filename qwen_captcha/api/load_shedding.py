"""Rejection of raw images for which the queue has no slot, before a thread handles their requests.

Threads that reject requests contend with the model's thread for the interpreter lock. Under ten
times the load, the model then reads about half of what it reads otherwise. So the loop that
accepts connections answers such a request itself, if all of it has arrived and it is of the most
common form: one image as the body. Any other request is handled, and if necessary rejected, by
Flask. Keys and rates are not checked, because the reply is a rejection in any case.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qwen_captcha.api.request_logging import (
    REQUEST_ID_HEADER,
    TIMING_HEADER,
    request_id,
    timing_of,
)
from qwen_captcha.api.security import BROWSER_HEADERS
from qwen_captcha.errors import QueueFull

if TYPE_CHECKING:
    from qwen_captcha.service import CaptchaService

ROUTE = "/ocr"
IMAGE_TYPES = ("image/", "application/octet-stream")
REQUEST_HEAD = re.compile(
    rb"POST /ocr/?(?:\?[!-~]*)? HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~]*\r\n)*)\r\n"
)
# Headers with which a request needs a thread: the browser's rules, another reply or another body.
NEEDS_THREAD = frozenset({"origin", "expect", "transfer-encoding", "upgrade"})


class LoadShedding:
    """Rejects requests by their bytes.

    Args:
        service: The service whose queue is checked.
        timeout_s: Maximum seconds of one request.
    """

    def __init__(self, service: CaptchaService, timeout_s: float) -> None:
        self._service = service
        self._timeout_s = timeout_s
        self._requests = service.metrics.requests.labels(ROUTE, str(QueueFull.status))
        self._seconds = service.metrics.request_seconds.labels(ROUTE)
        self._rejections = service.metrics.rejections.labels(QueueFull.error_type)

    def rejection(self) -> QueueFull | None:
        """Return the error of a request for one image now, None while the queue has a slot."""
        try:
            self._service.queue.reject_overload(self._service.monotonic() + self._timeout_s)
        except QueueFull as error:
            return error
        return None

    def reject(self, request: bytes, error: QueueFull) -> Mapping[str, str] | None:
        """Count a rejection; return the headers of its reply, None if the request needs a thread.

        Args:
            request: What has arrived of it.
            error: The reason.
        """
        start = time.monotonic()
        headers = headers_of_raw_image(request)
        if headers is None:
            return None
        elapsed_s = time.monotonic() - start
        self._requests.inc()
        self._seconds.observe(elapsed_s)
        self._rejections.inc()
        return {
            "Retry-After": str(error.retry_after_s),
            REQUEST_ID_HEADER: request_id(headers.get(REQUEST_ID_HEADER.lower(), "")),
            TIMING_HEADER: timing_of({"total": elapsed_s}),
            **BROWSER_HEADERS,
        }


def headers_of_raw_image(request: bytes) -> Mapping[str, str] | None:
    """Return the headers of a whole request with one image as its body, by lower-case name.

    None for any other request, and for one that is incomplete, ambiguous or followed by another.
    """
    head = REQUEST_HEAD.match(request)
    if head is None:
        return None
    lines = [line.partition(":") for line in head[1].decode("ascii").splitlines()]
    headers = {name.lower(): value.strip() for name, _, value in lines}
    if len(headers) < len(lines) or not NEEDS_THREAD.isdisjoint(headers):
        return None
    if headers.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    if not headers.get("content-type", "").lower().startswith(IMAGE_TYPES):
        return None
    whole = headers.get("content-length", "") == str(len(request) - head.end())
    return headers if whole else None
