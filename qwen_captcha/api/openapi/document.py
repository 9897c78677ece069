"""The OpenAPI 3.1 document, made from the table of operations.

Each status of an operation names every error that may have it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus

from qwen_captcha import __version__
from qwen_captcha.api.dialects import registry
from qwen_captcha.api.openapi.operation import (
    JSON_TYPE,
    Errors,
    Operation,
    Reply,
)
from qwen_captcha.api.openapi.operations import OPERATIONS
from qwen_captcha.api.openapi.option_fields import OPTION_FIELDS
from qwen_captcha.api.openapi.route_errors import SECURITY_ERRORS, SERVER_ERRORS
from qwen_captcha.api.openapi.schemas import (
    SCHEMAS,
    Schema,
    any_of,
    error_schema,
    ref,
)
from qwen_captcha.api.security import KEY_HEADER, OPEN_ROUTES
from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.settings import Settings

DESCRIPTION = """\
Reads text captchas with a Qwen2-VL model. Every error is one JSON object with `error`, a sentence,
and `error_type`, a stable slug. Every reply of the reading routes is a JSON object. An unknown path
returns 404 `not_found`, an unsupported method 405 `method_not_allowed`, and a CORS preflight of an
origin that is not allowed 403 `origin_not_allowed`.
"""
HEADERS: Mapping[str, Schema] = {
    "X-Cache": {
        "description": "hit: the answer was cached, or shared with an identical request; miss: the "
        "model read the image; off: the cache was not used.",
        "schema": {"type": "string", "enum": ["hit", "miss", "off"]},
    },
    "X-Request-Id": {
        "description": "The id that the request sent, or a new one.",
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "Milliseconds in all, in the queue and in the model.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds after which a retry makes sense; sent if a retry can help.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
WITH_RETRY_AFTER = (
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)
KEY_SCHEMES: Mapping[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": KEY_HEADER},
}
# Headers of every reply of the application; the HTTP server's own errors lack them.
HEADERS_OF_ALL = ("X-Request-Id", "Server-Timing")


def openapi_document(settings: Settings) -> dict[str, object]:
    """Return the description of a service with these settings."""
    paths: dict[str, dict[str, object]] = {}
    for operation in operations_of(settings):
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    components: dict[str, object] = {
        "schemas": {**SCHEMAS, **registry.SCHEMAS},
        "headers": HEADERS,
        "securitySchemes": KEY_SCHEMES,
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qwen-captcha",
            "version": __version__,
            "description": f"{DESCRIPTION}\n{limits_of(settings)}",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(entry.tag for entry in OPERATIONS)],
        "paths": paths,
        "components": components,
        "security": [{name: []} for name in KEY_SCHEMES] if settings.api_keys else [],
    }


def operations_of(settings: Settings) -> list[Operation]:
    """Return the routes that a service with these settings has."""
    return [
        operation
        for operation in OPERATIONS
        if not operation.needs or getattr(settings, operation.needs)
    ]


def limits_of(settings: Settings) -> str:
    """Return the limits of the service in a sentence."""
    return (
        f"Limits here: {settings.max_image_bytes} bytes and {settings.max_image_pixels} pixels an "
        f"image, {settings.max_frames} frames an animation, {settings.max_batch_images} images a "
        f"batch, {settings.max_body_bytes} bytes a request, {settings.max_prompt_characters} "
        f"characters a prompt; an image is answered within "
        f"{settings.ocr_timeout_s:g} s, a batch within {settings.batch_ocr_timeout_s:g} s."
    )


def _operation(operation: Operation) -> dict[str, object]:
    """Return the operation object of a route."""
    described: dict[str, object] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
    }
    if operation.description:
        described["description"] = operation.description
    if parameters := _parameters(operation):
        described["parameters"] = parameters
    if operation.bodies:
        content = {media_type: {"schema": body} for media_type, body in operation.bodies.items()}
        described["requestBody"] = {"required": True, "content": content}
    if operation.path in OPEN_ROUTES:
        described["security"] = []
    return {**described, "responses": _responses(operation)}


def _parameters(operation: Operation) -> list[Schema]:
    """Return the parameter objects of a route: parts of the path, then options in the query."""
    parts: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values}}
        for name, values in operation.path_values.items()
    ]
    if not operation.takes_options:
        return parts
    return parts + [
        {"name": option.name, "in": "query", "description": option.help, "schema": option.text}
        for option in OPTION_FIELDS
    ]


def _responses(operation: Operation) -> dict[str, object]:
    """Return the response objects of a route by status: its replies, then its errors."""
    statuses = {error.status for error in operation.errors} | set(
        server_and_security_errors(operation)
    )
    responses = {status: _response(reply) for status, reply in operation.replies.items()}
    for status in statuses - set(responses):
        responses[status] = _response(_error_reply(operation, status))
    return {str(status): response for status, response in sorted(responses.items())}


def server_and_security_errors(operation: Operation) -> Mapping[int, type[CaptchaServiceError]]:
    """Return the errors of a route that do not come from its view, by status."""
    return {**SERVER_ERRORS, **_security_errors(operation)}


def _security_errors(operation: Operation) -> Mapping[int, type[CaptchaServiceError]]:
    """Return the errors of access control on a route, by status; they have its error shapes."""
    return SECURITY_ERRORS if operation.guarded and operation.path not in OPEN_ROUTES else {}


def _response(reply: Reply) -> dict[str, object]:
    """Return a response object."""
    content = {media_type: {"schema": schema} for media_type, schema in reply.content.items()}
    headers = _header_refs((*reply.headers, *HEADERS_OF_ALL))
    return {"description": reply.description, "content": content, "headers": headers}


def _header_refs(names: Iterable[str]) -> dict[str, object]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _error_reply(operation: Operation, status: int) -> Reply:
    """Return one reply for all errors with one status."""
    all_raised = (*operation.errors, *_security_errors(operation).values())
    raised = tuple(error for error in all_raised if error.status == status)
    rejected: Errors = (SERVER_ERRORS[status],) if status in SERVER_ERRORS else ()
    shapes = [ref(shape) for shape in operation.error_shapes if raised and shape != "Error"]
    own = (raised if "Error" in operation.error_shapes else ()) + rejected
    schemas = [error_schema(own), *shapes] if own else shapes
    headers = ("Retry-After",) if status in WITH_RETRY_AFTER else ()
    schema = schemas[0] if len(schemas) == 1 else any_of(*schemas)
    return Reply(_reasons(raised + rejected), {JSON_TYPE: schema}, headers)


def _reasons(errors: Errors) -> str:
    """Return one line for each error."""
    reasons = {error.error_type: (error.__doc__ or "").splitlines()[0] for error in errors}
    return "\n".join(f"- `{slug}`: {reason}" for slug, reason in reasons.items())
