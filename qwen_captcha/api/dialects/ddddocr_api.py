"""The dialect of `ddddocr api` 1.6.

Source: ddddocr 1.6.1 (api/app.py), as far as clients depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, jsonify

from qwen_captcha.api.dialects.base import (
    FLAG,
    NULL,
    NUMBER,
    PROBABILITIES,
    TAG,
    TEXT,
    TEXTS,
    OtherRoute,
    Question,
    ReadingRoute,
    Server,
    file_or_base64,
    flag,
    option_fields,
)
from qwen_captcha.api.openapi.operation import FORM_TYPE, JSON_TYPE, Operation, json_reply
from qwen_captcha.api.openapi.option_fields import form_with, json_with
from qwen_captcha.api.openapi.route_errors import SINGLE_ERRORS
from qwen_captcha.api.openapi.schemas import (
    BASE64,
    IMAGE_FILE,
    WARNINGS,
    Schema,
    any_of,
    object_of,
    ref,
    sent_to,
)
from qwen_captcha.api.request_parsing import Body, PayloadLimits
from qwen_captcha.errors import CaptchaServiceError, Gone
from qwen_captcha.recognition.answer import Answer, probabilities
from qwen_captcha.recognition.charsets import CHARSET_RANGES

RANGE_PER_REQUEST = (
    "The range of characters is not a setting of the server: it would change for other callers. "
    "Send charset_range (0 to 7) or charset (the characters) with each request."
)


class DdddocrApi:
    """`ddddocr api` 1.6: JSON with `image`, or a multipart file `file`; errors have a status."""

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return the question of a request."""
        return Question(
            file_or_base64(body, "file", "image", limits),
            limits.parse_options(option_fields(body.fields, "charset_range"), body.query),
            flag(body.fields, "probability"),
        )

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return `result`, a text or with `probability` an object, as that server does."""
        body: dict[str, object] = {
            "result": probabilities(answer) if question.probability else answer.text,
            "probability": None,
            "processing_time": round(seconds, 6),
        }
        warnings = list(answer.warnings)
        if answer.error is not None:
            warnings.append(answer.error)
        if warnings:
            body["warnings"] = warnings
        return jsonify(body)

    def error(self, error: CaptchaServiceError) -> Response:
        """Return `detail` with the status of the error."""
        response = jsonify({"detail": error.message})
        response.status_code = error.status
        return response


def set_charset_range() -> Response:
    """Reject the request, because the range would change for all clients."""
    raise Gone(RANGE_PER_REQUEST)


_DIALECT = DdddocrApi()
_RANGE: Schema = any_of({"type": "integer", "enum": sorted(CHARSET_RANGES)}, TEXT, TEXTS, NULL)
_FIELDS: Mapping[str, Schema] = {"probability": FLAG, "charset_range": _RANGE}

DDDDOCR_API = Server(
    reading=(
        ReadingRoute(
            "/ocr", lambda parts: _DIALECT, lambda body: body.is_json and "image" in body.fields
        ),
        ReadingRoute("/ocr/file", lambda parts: _DIALECT),
    ),
    others=(
        OtherRoute(
            "/set_charset_range", "POST", "set_charset_range", set_charset_range, _DIALECT
        ),
    ),
    operations=(
        Operation(
            "post", "/ocr", "", "", "", "JSON with `image` is answered as `ddddocr api` does.",
            {200: json_reply("", ref("DdddocrApiReply"))},
            bodies={JSON_TYPE: json_with("image", BASE64, **_FIELDS)},
            error_shapes=("DdddocrApiError",),
        ),
        Operation(
            "post", "/ocr/file", "readFile", TAG, "Read a file",
            "A file `file` is answered as `ddddocr api` does.",
            {200: json_reply("An object for a file `file`.", ref("DdddocrApiReply"), "X-Cache")},
            bodies={FORM_TYPE: form_with("file", IMAGE_FILE, **_FIELDS)},
            takes_options=True,
            errors=SINGLE_ERRORS,
            error_shapes=("DdddocrApiError",),
        ),
        Operation(
            "post", "/set_charset_range", "setCharsetRange", TAG, "Not offered",
            "It changed a setting of all callers; charset_range is an option of each request.", {},
            errors=(Gone,),
            error_shapes=("DdddocrApiError",),
        ),
    ),
    schemas={
        "Probabilities": PROBABILITIES,
        "DdddocrApiReply": sent_to(
            "JSON with image, or a file named file at /ocr/file",
            object_of(
                {
                    "result": any_of(TEXT, ref("Probabilities")),
                    "probability": NULL,
                    "processing_time": {**NUMBER, "description": "Seconds."},
                },
                warnings=WARNINGS,
            ),
        ),
        "DdddocrApiError": sent_to(
            "a rejected request of ddddocr api's form", object_of({"detail": TEXT})
        ),
    },
)  # fmt: skip
