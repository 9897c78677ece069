"""The routes of the service as data: one entry each, with its forms, replies and errors.

Every rule of the application has one entry, except the files of the pages and the routes that only
reject requests. Entries of the dialects are merged with those of the same path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from qwen_captcha.api.dialects import registry
from qwen_captcha.api.openapi.operation import (
    FORM_TYPE,
    JSON_TYPE,
    URLENCODED_TYPE,
    Operation,
    Reply,
    json_reply,
    merged,
)
from qwen_captcha.api.openapi.option_fields import form_with, json_with
from qwen_captcha.api.openapi.route_errors import BATCH_ERRORS, FEEDBACK_ERRORS, SINGLE_ERRORS
from qwen_captcha.api.openapi.schemas import (
    BASE64,
    IMAGE_FILE,
    Schema,
    any_of,
    ref,
)

RAW_TYPES = ("image/*", "application/octet-stream")
HTML_REPLY: Mapping[str, Schema] = {"text/html; charset=utf-8": {"type": "string"}}

# An item that is no text fails alone instead of the request, so items have no schema.
LIST_OF_BASE64: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {"description": BASE64["description"]},
    "examples": [BASE64["examples"]],
}

OWN_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "post", "/ocr", "readImage", "Reading", "Read one image",
        "The image is a file of a form, base64 in JSON or in a form, or the body itself. A body "
        "that begins like an image is one, whatever its content type. Options are fields beside "
        "the image or in the query; the body takes precedence, and unknown fields are ignored.",
        {
            200: json_reply(
                "The answer; without success there is no usable text, and error_type is no_answer.",
                any_of(ref("Answer"), ref("NoAnswer")), "X-Cache",
            )
        },
        bodies={
            FORM_TYPE: any_of(form_with("image", IMAGE_FILE), form_with("image_base64", BASE64)),
            JSON_TYPE: json_with("image_base64", BASE64),
            URLENCODED_TYPE: form_with("image_base64", BASE64),
            **dict.fromkeys(RAW_TYPES, IMAGE_FILE),
        },
        takes_options=True,
        errors=SINGLE_ERRORS,
    ),
    Operation(
        "post", "/batch-ocr", "readImages", "Reading", "Read many images",
        "The images are files of a form, or base64 texts in JSON. The options apply to all images. "
        "Results are in the order of the images; an image that cannot be read fails alone.",
        {200: json_reply("One result for each image.", ref("Batch"), "X-Cache")},
        bodies={
            FORM_TYPE: form_with("images", {"type": "array", "minItems": 1, "items": IMAGE_FILE}),
            JSON_TYPE: json_with("images_base64", LIST_OF_BASE64),
        },
        takes_options=True,
        errors=BATCH_ERRORS,
    ),
    Operation(
        "post", "/feedback", "giveFeedback", "Reading", "Report whether an answer was right",
        "Stores a label of the image. The route exists if COLLECT_DIR is set. Later feedback on "
        "the same answer replaces earlier feedback.",
        {200: json_reply("The feedback is on disk.", ref("FeedbackReply"))},
        bodies={JSON_TYPE: ref("Feedback")},
        errors=FEEDBACK_ERRORS,
        needs="collect_dir",
    ),
    Operation(
        "get", "/health", "health", "State", "State of the service and its model",
        "The status code is 200 while the model answers; the fields are the same either way.",
        {
            200: json_reply("The model answers.", ref("Health")),
            503: json_reply("The model is loading, it failed, or the service is draining.",
                            ref("Health"), "Retry-After"),
        },
    ),
    Operation(
        "get", "/livez", "live", "State", "Whether the process is up", "",
        {200: json_reply("The process is up.", ref("Status"))},
    ),
    Operation(
        "get", "/readyz", "ready", "State", "Whether the model answers", "",
        {
            200: json_reply("The model answers.", ref("Status")),
            503: json_reply("The model does not answer.", ref("Status"), "Retry-After"),
        },
    ),
    Operation(
        "get", "/metrics", "metrics", "State", "Metrics for Prometheus", "",
        {200: Reply("Prometheus's text format.", {CONTENT_TYPE_PLAIN_0_0_4: {"type": "string"}})},
    ),
    Operation(
        "get", "/", "page", "Description", "A page to try the service on", "",
        {200: Reply("The page.", HTML_REPLY)},
    ),
    Operation(
        "get", "/docs", "docs", "Description", "This description as a page", "",
        {200: Reply("The page.", HTML_REPLY)},
    ),
    Operation(
        "get", "/openapi.json", "openapi", "Description", "This description", "",
        {200: json_reply("An OpenAPI 3.1 document.", {"type": "object"})},
    ),
)  # fmt: skip


def merged_by_route(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    """Return one operation for each path and method; the one with a name is the first of each."""
    found: dict[tuple[str, str], Operation] = {}
    for operation in sorted(operations, key=lambda operation: not operation.name):
        key = (operation.path, operation.method)
        found[key] = merged(found[key], operation) if key in found else operation
    return tuple(found.values())


OPERATIONS = merged_by_route((*OWN_OPERATIONS, *registry.OPERATIONS))
