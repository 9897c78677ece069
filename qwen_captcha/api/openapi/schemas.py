"""The JSON objects of the service's own replies, and an image, as JSON Schemas.

A reply has no field that its schema does not name; a test compares both.
"""

from __future__ import annotations

from collections.abc import Mapping

from qwen_captcha import __version__
from qwen_captcha.collecting.labels import MAX_LABEL_CHARACTERS
from qwen_captcha.errors import CaptchaServiceError, every_error_type
from qwen_captcha.images.headers import READABLE_FORMATS
from qwen_captcha.recognition.constraints import MAX_ALTERNATIVES
from qwen_captcha.scheduling.request_queue import ModelState
from qwen_captcha.settings import BACKENDS

Schema = Mapping[str, object]

NO_ANSWER = "no_answer"
BASE64: Schema = {
    "type": "string",
    "contentEncoding": "base64",
    "description": "An image file in base64, of either alphabet; the prefix of a data URI is "
    "dropped.",
    "examples": ["data:image/png;base64,iVBORw0KGgo…"],
}
IMAGE_FILE: Schema = {
    "type": "string",
    "contentMediaType": "application/octet-stream",
    "description": f"A {READABLE_FORMATS} file; its first bytes determine the format.",
}


def object_of(required: Mapping[str, object], **optional: object) -> Schema:
    """Return the schema of an object with required and optional fields."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
    }


def sent_to(request: str, schema: Schema) -> Schema:
    """Return the schema of a reply, with a description of the requests that get it.

    OpenAPI ties a reply to a status and not to the form of the request.
    """
    return {**schema, "description": f"The reply to {request}."}


def ref(name: str) -> Schema:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def any_of(*schemas: Schema) -> Schema:
    """Return the schema of a value that fits at least one schema, without nested `anyOf`."""
    choices: list[Schema] = []
    for schema in schemas:
        inner = schema.get("anyOf") if list(schema) == ["anyOf"] else None
        choices += inner if isinstance(inner, list) else [schema]
    return {"anyOf": choices}


def error_types() -> list[str]:
    """Return the slug of every error that has an HTTP status."""
    return sorted({error.error_type for error in every_error_type()})


OWN_REQUEST = "an image as the body, as a file image or as a text image_base64"
_SENTENCE: Schema = {"type": "string", "minLength": 1, "description": "One sentence."}
WARNINGS: Schema = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "string", "minLength": 1},
    "description": "Options that had no effect, and figures that are unknown.",
}
_RAW_RESPONSE: Schema = {"type": "string", "description": "The output of the model, unchanged."}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_NOTHING: Schema = {"const": "", "type": "string"}
_ZERO: Schema = {"const": 0.0, "type": "number"}

ANSWER_FIELDS: Mapping[str, object] = {
    "success": {"const": True, "type": "boolean"},
    "text": {
        "type": "string",
        "minLength": 1,
        "description": "The text that a person would type; for arithmetic the number.",
    },
    "confidence": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "description": "The probability that text is right; 0 with a warning where it is unknown.",
    },
    "raw_response": _RAW_RESPONSE,
}
# Optional fields of an answer.
ANSWER_EXTRAS: Mapping[str, object] = {
    "warnings": WARNINGS,
    "low_confidence": {
        "const": True,
        "type": "boolean",
        "description": "The confidence is below min_confidence.",
    },
    "details": ref("Details"),
    "model": {
        "type": "string",
        "minLength": 1,
        "description": "Only of a cascade: the model that gave the answer.",
    },
}


def _failure(*error_types_: str) -> Mapping[str, object]:
    """Return the fields of an image without a usable answer."""
    return {
        "success": {"const": False, "type": "boolean"},
        "text": _NOTHING,
        "confidence": _ZERO,
        "raw_response": _RAW_RESPONSE,
        "error": _SENTENCE,
        "error_type": {"type": "string", "enum": list(error_types_)},
    }


_FILENAME = {
    "filename": {
        "type": "string",
        "description": "The name that was sent, or image_1, image_2, … by position.",
    }
}

SCHEMAS: Mapping[str, Schema] = {
    "Details": object_of(
        {
            "characters": {
                "type": "array",
                "items": {"type": "array", "prefixItems": [{"type": "string"}, _SHARE]},
                "description": "The characters that were read, each with its confidence.",
            },
            "alternatives": {
                "type": "array",
                "items": object_of({"text": {"type": "string"}, "confidence": _SHARE}),
                "maxItems": MAX_ALTERNATIVES,
                "description": "Other readings.",
            },
        }
    ),
    "Answer": sent_to(OWN_REQUEST, object_of(ANSWER_FIELDS, **ANSWER_EXTRAS)),
    "NoAnswer": sent_to(
        f"{OWN_REQUEST} whose image gives no usable text",
        object_of(_failure(NO_ANSWER), **ANSWER_EXTRAS),
    ),
    "BatchAnswer": object_of({**_FILENAME, **ANSWER_FIELDS}, **ANSWER_EXTRAS),
    "BatchFailure": object_of(
        {**_FILENAME, **_failure(NO_ANSWER, *error_types())}, **ANSWER_EXTRAS
    ),
    "Batch": object_of(
        {
            "success": {"const": True, "type": "boolean"},
            "count": {"type": "integer", "minimum": 1},
            "results": {
                "type": "array",
                "minItems": 1,
                "items": {"anyOf": [ref("BatchAnswer"), ref("BatchFailure")]},
                "description": "One for each image, in the order sent.",
            },
        }
    ),
    "Feedback": object_of(
        {
            "request_id": {
                "type": "string",
                "pattern": r"^[A-Za-z0-9_.:/+=@-]{1,128}(#[0-9]+)?$",
                "description": "X-Request-Id of the reply; for an image of a batch with its "
                "position from 1, as in 7f3a#1.",
            },
            "correct": {
                "type": "boolean",
                "description": "Whether the site accepted the answer.",
            },
        },
        text={
            "type": "string",
            "maxLength": MAX_LABEL_CHARACTERS,
            "description": "The right text, where the answer was wrong and it is known.",
        },
    ),
    "FeedbackReply": object_of({"success": {"const": True, "type": "boolean"}}),
    "Health": object_of(
        {
            "status": {"type": "string", "enum": ["ok", "loading", "failed", "draining"]},
            "service": {"type": "string"},
            "version": {"type": "string", "examples": [__version__]},
            "model": {"type": "string", "examples": ["Qwen/Qwen2-VL-2B-Instruct", "bundled"]},
            "device": {"type": "string", "examples": ["cuda", "cpu"]},
            "model_status": {"type": "string", "enum": [state.value for state in ModelState]},
            "gpu_available": {"type": "boolean"},
            "backend": {
                "type": "string",
                "enum": [name for name in BACKENDS if name != "auto"],
                "description": "The engine that runs the model.",
            },
            "calibrated": {
                "type": "boolean",
                "description": "Whether the confidence is calibrated for this model.",
            },
        },
        engine={"type": "object", "description": "The engine behind the service."},
        cascade={"type": "object", "description": "The second reader, where there is one."},
        error={**_SENTENCE, "description": "The reason why the model failed, if it did."},
    ),
    "Status": object_of(
        {"status": {"type": "string", "enum": ["ok", "loading", "failed", "draining"]}}
    ),
    "Error": object_of(
        {
            "success": {"const": False, "type": "boolean"},
            "text": _NOTHING,
            "confidence": _ZERO,
            "error": _SENTENCE,
            "error_type": {"type": "string", "enum": error_types()},
        }
    ),
}


def error_schema(errors: tuple[type[CaptchaServiceError], ...]) -> Schema:
    """Return the schema of the error object with one of some error types."""
    slugs = list(dict.fromkeys(error.error_type for error in errors))
    return {"allOf": [ref("Error"), {"properties": {"error_type": {"enum": slugs}}}]}
