"""Rejection of raw images for which the queue has no slot, before Flask sees their requests.

A rejection by Flask costs ten times as much. Under ten times the load, threads that reject requests
would hold the interpreter lock that the model's thread needs. A body with the content type of an
image is a request to this service's own API. Any other body may be in a dialect; Flask rejects it
in that dialect. Keys and rates are not checked, because the reply is a rejection in any case.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from qwen_captcha.api.request_logging import (
    REQUEST_ID_HEADER,
    TIMING_HEADER,
    request_id,
    timing_of,
)
from qwen_captcha.api.security import BROWSER_HEADERS
from qwen_captcha.errors import QueueFull, error_body

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from qwen_captcha.service import CaptchaService

ROUTE = "/ocr"
IMAGE_TYPES = ("image/", "application/octet-stream")
STATUS = f"{QueueFull.status} {HTTPStatus(QueueFull.status).phrase}"


def shed_load(
    application: WSGIApplication, service: CaptchaService, timeout_s: float
) -> WSGIApplication:
    """Return a WSGI application that rejects raw images while the queue has no slot for them.

    Args:
        application: The application that handles all other requests.
        service: The service whose queue is checked.
        timeout_s: Maximum seconds of one request.
    """
    requests = service.metrics.requests.labels(ROUTE, str(QueueFull.status))
    seconds = service.metrics.request_seconds.labels(ROUTE)
    rejections = service.metrics.rejections.labels(QueueFull.error_type)

    def shedding(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start = time.monotonic()
        if not _is_raw_image(environ):
            return application(environ, start_response)
        try:
            service.queue.reject_overload(service.monotonic() + timeout_s)
        except QueueFull as error:
            body = json.dumps(error_body(error.error_type, error.message), separators=(",", ":"))
            data = f"{body}\n".encode()
            elapsed_s = time.monotonic() - start
            headers = {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                "Retry-After": str(error.retry_after_s),
                REQUEST_ID_HEADER: request_id(environ.get("HTTP_X_REQUEST_ID", "")),
                TIMING_HEADER: timing_of({"total": elapsed_s}),
                **BROWSER_HEADERS,
            }
            requests.inc()
            seconds.observe(elapsed_s)
            rejections.inc()
            start_response(STATUS, list(headers.items()))
            return [data]
        return application(environ, start_response)

    return shedding


def _is_raw_image(environ: WSGIEnvironment) -> bool:
    """Return whether a request to read one image has it as its body, and comes from no page."""
    return (
        environ["PATH_INFO"] == ROUTE
        and environ["REQUEST_METHOD"] == "POST"
        and environ.get("CONTENT_TYPE", "").startswith(IMAGE_TYPES)
        and "HTTP_ORIGIN" not in environ
    )
