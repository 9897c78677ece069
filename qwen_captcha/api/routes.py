"""The HTTP routes: request → service → JSON.

Every reply with a body is a JSON object, because some clients take any other body for the text of
a captcha. Only the dialects reply with plain text, where their clients expect it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus

from flask import Blueprint, Flask, Response, g, jsonify, request
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from werkzeug.exceptions import HTTPException

from qwen_captcha import __version__
from qwen_captcha.api.dialects.base import Dialect
from qwen_captcha.api.dialects.registry import dialect_of, read_in_dialect
from qwen_captcha.api.request_logging import (
    CACHE_HEADER,
    record_answers,
    record_error,
)
from qwen_captcha.api.request_parsing import (
    PayloadLimits,
    parse_batch,
    parse_feedback,
    parse_single,
    read_body,
)
from qwen_captcha.api.wsgi import disconnect_check
from qwen_captcha.collecting.collector import Collector
from qwen_captcha.errors import (
    DEFAULT_RETRY_S,
    REQUEST_FAILED,
    BadRequest,
    BodyTooLarge,
    CaptchaServiceError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    error_body,
)
from qwen_captcha.metrics import Metrics
from qwen_captcha.readers.cascade import Cascade
from qwen_captcha.recognition.answer import Answer, CacheUse
from qwen_captcha.scheduling.request_queue import ModelState
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings

SERVICE_NAME = "qwen2-vl-captcha"
# The header with which `deploy/nginx.conf` announces other instances. The header of the reply names
# the location of nginx that passes the request to them. Its value is fixed, because any client may
# send the request header.
ELSEWHERE_HEADER = "X-Captcha-Elsewhere"
ELSEWHERE = {"X-Accel-Redirect": "@elsewhere"}

log = logging.getLogger(__name__)


def answer_body(answer: Answer) -> dict[str, object]:
    """Return the JSON object of an answer, without fields that do not apply."""
    body: dict[str, object] = {
        "success": answer.success,
        "text": answer.text,
        "confidence": answer.confidence,
        "raw_response": answer.raw_response,
    }
    if answer.error_type is not None:
        body |= {"error": answer.error, "error_type": answer.error_type}
    if answer.low_confidence:
        body["low_confidence"] = True
    if answer.details is not None:
        body["details"] = answer.details
    if answer.model is not None:
        body["model"] = answer.model
    if answer.warnings:
        body["warnings"] = list(answer.warnings)
    return body


def create_blueprint(service: CaptchaService, settings: Settings) -> Blueprint:
    """Return the routes of one service."""
    routes = Blueprint("captcha", __name__)
    limits = PayloadLimits.of(settings)

    @routes.post("/ocr")
    def ocr() -> Response:
        """Read one image, from a request to this service or to one of ddddocr's servers."""
        start = service.monotonic()
        body = read_body(request)
        dialect = dialect_of(body)
        if dialect is not None:
            return read_in_dialect(dialect, body, service, settings, start)
        data, options = parse_single(body, limits)
        deadline = start + settings.ocr_timeout_s
        answer = service.recognize(data, options, deadline, disconnect_check(request.environ))
        record_answers([answer])
        response = jsonify(answer_body(answer))
        response.headers[CACHE_HEADER] = answer.cache
        return response

    @routes.post("/batch-ocr")
    def batch_ocr() -> Response:
        """Read many images."""
        deadline = service.monotonic() + settings.batch_ocr_timeout_s
        uploads, options = parse_batch(request, limits)
        answers = service.recognize_many(
            [upload.data for upload in uploads],
            options,
            deadline,
            disconnect_check(request.environ),
        )
        record_answers(answers)
        results = [
            {"filename": upload.filename, **answer_body(answer)}
            for upload, answer in zip(uploads, answers, strict=True)
        ]
        response = jsonify({"success": True, "count": len(results), "results": results})
        response.headers[CACHE_HEADER] = cache_use_of_many(answers)
        return response

    if service.collector is not None:
        routes.add_url_rule(
            "/feedback", view_func=feedback_view(service.collector, settings), methods=["POST"]
        )

    @routes.get("/health")
    def health() -> tuple[Response, int, dict[str, str]]:
        """Return the state of the service and of its model."""
        backend = service.backend
        body: dict[str, object] = {
            "status": status_of(service),
            "service": SERVICE_NAME,
            "version": __version__,
            "model": backend.model_name,
            "device": backend.device,
            "model_status": service.model_state,
            "gpu_available": backend.gpu_available,
            "backend": backend.name,
            "calibrated": backend.capabilities.calibration is not None,
        }
        if backend.remote is not None:
            body["engine"] = backend.remote.describe()
        if service.cascade is not None:
            body["cascade"] = cascade_body(service.cascade)
        if service.model_error is not None:
            body["error"] = service.model_error
        return with_readiness(service, body)

    @routes.get("/metrics")
    def metrics() -> Response:
        """Return the metrics for Prometheus."""
        return Response(service.metrics.render(), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    @routes.get("/livez")
    def livez() -> Response:
        """Return 200 while the process is up."""
        return jsonify({"status": "ok"})

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int, dict[str, str]]:
        """Return 200 while the model answers, else 503."""
        return with_readiness(service, {"status": status_of(service)})

    return routes


def feedback_view(collector: Collector, settings: Settings) -> Callable[[], Response]:
    """Return the view of `POST /feedback`."""

    def feedback() -> Response:
        """Store the feedback of a site."""
        collector.feedback(parse_feedback(request.get_data()), settings.ocr_timeout_s)
        return jsonify({"success": True})

    return feedback


def cascade_body(cascade: Cascade) -> dict[str, object]:
    """Return the second reader's part of `/health`."""
    second = cascade.second
    return {
        "model": second.backend.model_name,
        "device": second.backend.device,
        "model_status": second.queue.state,
        "calibrated": second.backend.capabilities.calibration is not None,
        "below": cascade.below,
    }


def cache_use_of_many(answers: list[Answer]) -> CacheUse:
    """Return the cache use of a whole batch: a hit only if all images that were read are hits."""
    uses = {answer.cache for answer in answers if answer.error_type in (None, "no_answer")}
    if uses == {CacheUse.HIT}:
        return CacheUse.HIT
    return CacheUse.MISS if CacheUse.MISS in uses else CacheUse.OFF


def status_of(service: CaptchaService) -> str:
    """Return `ok`, or the reason why the service does not accept images."""
    if service.draining:
        return "draining"
    return "ok" if service.model_state is ModelState.READY else service.model_state.value


def with_readiness(
    service: CaptchaService, body: dict[str, object]
) -> tuple[Response, int, dict[str, str]]:
    """Return a JSON reply with status 200 while the service accepts images, else 503."""
    if status_of(service) == "ok":
        return jsonify(body), HTTPStatus.OK, {}
    headers = {"Retry-After": str(DEFAULT_RETRY_S)}
    return jsonify(body), HTTPStatus.SERVICE_UNAVAILABLE, headers


def register_error_handlers(app: Flask, metrics: Metrics, settings: Settings) -> None:
    """Render every error of an application as the same JSON object."""

    @app.errorhandler(CaptchaServiceError)
    def service_error(error: CaptchaServiceError) -> Response:
        """Render an error of the service."""
        return error_response(error, metrics)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        """Render an error of Flask with its headers."""
        response = error_response(as_service_error(error, settings.max_body_bytes), metrics)
        if "dialect" not in g:
            response.status_code = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
        for name, value in error.get_headers(request.environ):
            if name in ("Allow", "Retry-After"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def bug(error: Exception) -> Response:
        """Render an unforeseen error."""
        log.error("A request failed.", exc_info=error)
        return error_response(InternalError(REQUEST_FAILED), metrics)


def error_response(error: CaptchaServiceError, metrics: Metrics) -> Response:
    """Return the reply for an error, in the dialect of the request where that is known."""
    record_error(error, metrics)
    dialect: Dialect | None = g.get("dialect")
    if dialect is not None:
        response = dialect.error(error)
    else:
        response = jsonify(error_body(error.error_type, error.message))
        response.status_code = error.status
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.elsewhere and ELSEWHERE_HEADER in request.headers:
        response.headers.update(ELSEWHERE)
    return response


def as_service_error(error: HTTPException, max_body_bytes: int) -> CaptchaServiceError:
    """Return the error of this service for an error of Flask."""
    if error.code == HTTPStatus.NOT_FOUND:
        return NotFound("There is no such route; captchas are read at /ocr and /batch-ocr.")
    if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
        return MethodNotAllowed(f"This route does not answer {request.method} requests.")
    if error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        if (request.content_length or max_body_bytes + 1) <= max_body_bytes:
            return BodyTooLarge(f"The form has more than {request.max_form_parts} parts.")
        return BodyTooLarge(f"The request body is over the limit of {max_body_bytes} bytes.")
    if error.code is not None and error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return InternalError(REQUEST_FAILED)
    return BadRequest(error.description or "The request cannot be understood.")
