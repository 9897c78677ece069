"""The routes that only ddddocr's own servers have.

Responsible for: their URLs, and which dialect answers at each. Invariant: as soon as it is known
whose request it is, also its errors are in that dialect.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, request

from qwen_captcha.api.dialects.base import Dialect
from qwen_captcha.api.dialects.ddddocr_api import DDDDOCR_API
from qwen_captcha.api.dialects.ddddocr_fastapi import DDDDOCR_FASTAPI
from qwen_captcha.api.dialects.ocr_api_server import OcrApiServer
from qwen_captcha.api.request_logging import CACHE_HEADER, record_answers
from qwen_captcha.api.request_parsing import (
    Body,
    PayloadLimits,
    read_body,
)
from qwen_captcha.api.wsgi import disconnect_check
from qwen_captcha.errors import Gone, NotFound
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings

RANGE_PER_REQUEST = (
    "The range of characters is not a setting of the server: it would change under other callers. "
    "Send charset_range (0 to 7) or charset (the characters) with each request."
)
TEXT_ONLY = "Detection and sliders are not offered: this service reads text."


def create_dialect_blueprint(service: CaptchaService, settings: Settings) -> Blueprint:
    """Return the routes of ddddocr's servers for one service."""
    routes = Blueprint("dialects", __name__)

    @routes.url_value_preprocessor
    def set_dialect(endpoint: str | None, values: dict[str, Any] | None) -> None:
        """Note whose route it is, before anything can reject the request."""
        g.start = service.monotonic()
        form = (values or {}).pop("form", "text")
        if request.path.startswith(("/ocr/b64", "/ocr/file/")):
            g.dialect = OcrApiServer(as_json=form == "json")
        elif request.path in ("/ocr/file", "/set_charset_range"):
            g.dialect = DDDDOCR_API

    @routes.get("/ping")
    def ping() -> Response:
        """Answer a caller of ocr_api_server that the process is up."""
        return Response("pong", mimetype="text/plain")

    @routes.post("/ocr/file")
    def ocr_file() -> Response:
        """Read a file `file` for `ddddocr api`, a file `image` for ocr_api_server."""
        body = read_body(request)
        ours = "image" in body.files and "file" not in body.files
        dialect = OcrApiServer(as_json=False) if ours else DDDDOCR_API
        return read_in_dialect(dialect, body, service, settings, g.start)

    @routes.post("/ocr/file/<any(text, json):form>")
    def ocr_file_as() -> Response:
        """Read a file `image` for ocr_api_server."""
        return read_in_dialect(g.dialect, read_body(request), service, settings, g.start)

    @routes.post("/ocr/b64")
    @routes.post("/ocr/b64/<any(text, json):form>")
    def ocr_base64() -> Response:
        """Read base64 that is the whole body, for ocr_api_server."""
        body = read_body(request)
        if body.image is None and "image" not in body.fields and "image" not in body.files:
            text = request.get_data().decode("utf-8", "replace")
            body = Body(fields={"image": text}, query=request.args)
        return read_in_dialect(g.dialect, body, service, settings, g.start)

    @routes.post("/set_charset_range")
    def set_charset_range() -> Response:
        """Reject a change to a setting of all callers."""
        raise Gone(RANGE_PER_REQUEST)

    @routes.route("/det", methods=["GET", "POST"])
    @routes.route("/det/<path:_>", methods=["GET", "POST"])
    @routes.route("/detection", methods=["GET", "POST"])
    @routes.route("/slide<path:_>", methods=["GET", "POST"])
    @routes.route("/slide/<path:_>", methods=["GET", "POST"])
    def other_tasks(_: str = "") -> Response:
        """Say that this is not text recognition."""
        raise NotFound(TEXT_ONLY)

    return routes


def read_in_dialect(
    dialect: Dialect, body: Body, service: CaptchaService, settings: Settings, start: float
) -> Response:
    """Return the reply to a request for one image in a dialect.

    Args:
        dialect: Whose request it is.
        body: The request's.
        service: Reads the image.
        settings: The service's.
        start: When the request came, before its body was read, by the service's clock.
    """
    g.dialect = dialect
    limits = PayloadLimits.of(settings)
    question = dialect.parse(body, limits)
    answer = service.recognize(
        question.data,
        question.options,
        start + settings.ocr_timeout_s,
        disconnect_check(request.environ),
    )
    record_answers([answer])
    response = dialect.answer(question, answer, service.monotonic() - start)
    response.headers[CACHE_HEADER] = answer.cache
    return response


def dialect_of(body: Body) -> Dialect | None:
    """Return whose request `POST /ocr` is, None for one of this service's own."""
    if body.image is not None or "image" in body.files or "image_base64" in body.fields:
        return None
    if body.is_json:
        return DDDDOCR_API if "image" in body.fields else None
    if "file" in body.files or "image" in body.fields:
        return DDDDOCR_FASTAPI
    return None
