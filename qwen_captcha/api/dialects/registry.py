"""The servers whose APIs this service implements, and their routes.

A new server is a module in this folder and one entry in `SERVERS`. As soon as the dialect of a
request is known, its errors have that dialect's shape, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, g, request

from qwen_captcha.api.dialects.base import Dialect, ReadingRoute, Server
from qwen_captcha.api.dialects.ddddocr_api import DDDDOCR_API
from qwen_captcha.api.dialects.ddddocr_fastapi import DDDDOCR_FASTAPI
from qwen_captcha.api.dialects.ocr_api_server import OCR_API_SERVER
from qwen_captcha.api.openapi.operation import Operation
from qwen_captcha.api.openapi.schemas import Schema
from qwen_captcha.api.request_logging import CACHE_HEADER, record_answers
from qwen_captcha.api.request_parsing import (
    Body,
    PayloadLimits,
    read_body,
)
from qwen_captcha.api.wsgi import disconnect_check
from qwen_captcha.errors import NotFound
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings

# The first server of a path that claims a body reads it. The last one of a path claims all bodies.
SERVERS: tuple[Server, ...] = (OCR_API_SERVER, DDDDOCR_API, DDDDOCR_FASTAPI)
# The path that the servers share with this service.
SHARED = "/ocr"
TEXT_ONLY = "Detection and sliders are not offered: this service reads text."

OPERATIONS: tuple[Operation, ...] = tuple(
    operation for server in SERVERS for operation in server.operations
)
SCHEMAS: Mapping[str, Schema] = {
    name: schema for server in SERVERS for name, schema in server.schemas.items()
}


def reading_routes() -> dict[str, list[ReadingRoute]]:
    """Return the routes of all servers by their path."""
    routes: dict[str, list[ReadingRoute]] = {}
    for server in SERVERS:
        for route in server.reading:
            routes.setdefault(route.rule, []).append(route)
    return routes


def create_dialect_blueprint(service: CaptchaService, settings: Settings) -> Blueprint:
    """Return the routes of ddddocr's servers for one service."""
    routes = Blueprint("dialects", __name__)
    reading = {rule: found for rule, found in reading_routes().items() if rule != SHARED}
    others = {route.rule: route for server in SERVERS for route in server.others}

    @routes.url_value_preprocessor
    def set_dialect(endpoint: str | None, values: dict[str, Any] | None) -> None:
        """Store the dialect of the route, before anything can reject the request."""
        g.start = service.monotonic()
        rule = request.url_rule.rule if request.url_rule else ""
        if rule in reading:
            g.dialect = reading[rule][-1].dialect(values or {})
        elif rule in others and others[rule].dialect is not None:
            g.dialect = others[rule].dialect

    def read(**parts: str) -> Response:
        """Read one image for the server that claims the request."""
        body = read_body(request)
        assert request.url_rule is not None
        route = next(route for route in reading[request.url_rule.rule] if route.claims(body))
        return read_in_dialect(route.dialect(parts), body, service, settings, g.start)

    for rule in reading:
        routes.add_url_rule(rule, view_func=read, methods=["POST"])
    for other in others.values():
        routes.add_url_rule(other.rule, other.name, other.reply, methods=[other.method])

    @routes.route("/det", methods=["GET", "POST"])
    @routes.route("/det/<path:_>", methods=["GET", "POST"])
    @routes.route("/detection", methods=["GET", "POST"])
    @routes.route("/slide<path:_>", methods=["GET", "POST"])
    @routes.route("/slide/<path:_>", methods=["GET", "POST"])
    def other_tasks(_: str = "") -> Response:
        """Reject a request that is not for text recognition."""
        raise NotFound(TEXT_ONLY)

    return routes


def read_in_dialect(
    dialect: Dialect, body: Body, service: CaptchaService, settings: Settings, start: float
) -> Response:
    """Return the reply to a request for one image in a dialect.

    Args:
        dialect: The dialect of the request.
        body: The content of the request.
        service: The service that reads the image.
        settings: The settings of the service.
        start: Time of the service's clock at which the request arrived, before its body was read.
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
    """Return the dialect of a body at the shared path, None for a request to this service."""
    if body.image is not None or "image" in body.files or "image_base64" in body.fields:
        return None
    claimed = (route for route in reading_routes()[SHARED] if route.claims(body))
    route = next(claimed, None)
    return None if route is None else route.dialect({})
