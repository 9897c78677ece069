"""The log line, the metrics and the headers `X-Request-Id` and `Server-Timing` of each request.

An image is never logged, its text only with LOG_ANSWERS. The query and the prompt are never logged.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Mapping, Sequence

from flask import Flask, Response, g, request

from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.logs import REQUEST_ID
from qwen_captcha.metrics import Metrics
from qwen_captcha.recognition.answer import Answer
from qwen_captcha.settings import Settings

REQUEST_ID_HEADER = "X-Request-Id"
TIMING_HEADER = "Server-Timing"
CACHE_HEADER = "X-Cache"
# Probes and scrapers send requests to these every few seconds: they are logged at DEBUG.
QUIET_ROUTES = ("/health", "/livez", "/readyz", "/metrics", "/ping")
UNKNOWN_ROUTE = "unknown"

# No spaces and no control characters: the id is repeated in a header and in the log.
_ACCEPTED_ID = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)

log = logging.getLogger(__name__)


def record_answers(answers: Sequence[Answer]) -> None:
    """Store the answers to the current request, for its log line and `Server-Timing`."""
    g.answers = answers


def record_error(error: CaptchaServiceError, metrics: Metrics) -> None:
    """Count an error reply and store it for the log line of the request."""
    g.error_type = error.error_type
    metrics.rejections.labels(error.error_type).inc()


def register_request_logging(app: Flask, metrics: Metrics, settings: Settings) -> None:
    """Add id, `Server-Timing`, log line and metrics to every request of an application."""

    @app.before_request
    def begin() -> None:
        """Store the start time and the id of the request."""
        g.start_s = time.monotonic()
        REQUEST_ID.set(request_id(request.headers.get(REQUEST_ID_HEADER, "")))
        metrics.requests_in_flight.inc()

    @app.after_request
    def end(response: Response) -> Response:
        """Add the headers to the reply, then count and log it."""
        seconds = time.monotonic() - g.start_s
        route = request.url_rule.rule if request.url_rule else UNKNOWN_ROUTE
        response.headers[REQUEST_ID_HEADER] = REQUEST_ID.get()
        response.headers[TIMING_HEADER] = server_timing(g.get("answers", ()), seconds)
        metrics.requests.labels(route, str(response.status_code)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in QUIET_ROUTES else logging.INFO
        if log.isEnabledFor(level):
            fields = line_fields(route, response, seconds, with_answers=settings.log_answers)
            log.log(level, "%s %s", request.method, route, extra={"fields": fields})
        return response

    @app.teardown_request
    def leave(_: BaseException | None) -> None:
        """Remove the request from the metrics and its id from the log."""
        metrics.requests_in_flight.dec()
        REQUEST_ID.set("")


def request_id(given: str) -> str:
    """Return the caller's id if it is valid, else a new one.

    `random` is used because reading the system's randomness would release the interpreter lock.
    """
    return given if is_request_id(given) else f"{random.getrandbits(128):032x}"


def is_request_id(given: str) -> bool:
    """Return whether a caller's id can be repeated in a header and in the log."""
    return _ACCEPTED_ID.fullmatch(given) is not None


def server_timing(answers: Sequence[Answer], seconds: float) -> str:
    """Return the value of `Server-Timing`, in milliseconds.

    `queue` and `inference` are the maxima over the request's images, which wait and run in
    parallel. They are 0 for a cached answer.
    """
    durations = {"total": seconds}
    if answers:
        durations = {
            "queue": max(answer.queue_s for answer in answers),
            "inference": max(answer.inference_s for answer in answers),
            **durations,
        }
    return timing_of(durations)


def timing_of(durations: Mapping[str, float]) -> str:
    """Return the value of `Server-Timing` for durations in seconds, by name."""
    return ", ".join(f"{name};dur={1000 * value:.3f}" for name, value in durations.items())


def line_fields(
    route: str, response: Response, seconds: float, *, with_answers: bool
) -> dict[str, object]:
    """Return the log fields of the current request."""
    answers: Sequence[Answer] = g.get("answers", ())
    fields: dict[str, object] = {
        "method": request.method,
        "route": route,
        "status": response.status_code,
        "duration_ms": round(1000 * seconds, 3),
        "bytes_in": request.content_length,
        "client": request.remote_addr,
    }
    if answers:
        fields |= {
            "queue_ms": round(1000 * max(answer.queue_s for answer in answers), 3),
            "inference_ms": round(1000 * max(answer.inference_s for answer in answers), 3),
            "cache": response.headers.get(CACHE_HEADER),
            "images": len(answers),
            "no_answer": sum(not answer.success for answer in answers),
        }
    if "error_type" in g:
        fields["error_type"] = g.error_type
    if with_answers and answers:
        fields["answers"] = [
            {"text": answer.text, "raw": answer.raw_response, "confidence": answer.confidence}
            for answer in answers
        ]
    return {name: value for name, value in fields.items() if value is not None}
