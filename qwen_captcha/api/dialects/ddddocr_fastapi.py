"""The dialect of ddddocr-fastapi.

Source: sml2h3/ddddocr-fastapi (app/main.py), as far as clients depend on it.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response, jsonify

from qwen_captcha.api.dialects.base import (
    FLAG,
    NULL,
    PROBABILITIES,
    TEXT,
    Question,
    ReadingRoute,
    Server,
    file_or_base64,
    flag,
    option_fields,
)
from qwen_captcha.api.openapi.operation import (
    FORM_TYPE,
    URLENCODED_TYPE,
    Operation,
    json_reply,
)
from qwen_captcha.api.openapi.option_fields import form_with
from qwen_captcha.api.openapi.schemas import (
    BASE64,
    IMAGE_FILE,
    Schema,
    any_of,
    object_of,
    ref,
    sent_to,
)
from qwen_captcha.api.request_parsing import Body, PayloadLimits
from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.recognition.answer import Answer, probabilities


class DdddocrFastapi:
    """ddddocr-fastapi: a form with a file `file` or a text `image`; `code` holds the result."""

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return the question of a request."""
        return Question(
            file_or_base64(body, "file", "image", limits),
            limits.parse_options(option_fields(body.fields, "charsets"), body.query),
            flag(body.fields, "probability"),
        )

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return `data`, a text or with `probability` an object."""
        if not answer.success:
            # A client that checks only `code` must not use an empty text as the answer.
            return self._reply(500, answer.error or "", "")
        data = probabilities(answer) if question.probability else answer.text
        return self._reply(200, "Success", data)

    def error(self, error: CaptchaServiceError) -> Response:
        """Return code 400 for an error that the caller can fix, else 500."""
        return self._reply(400 if error.status < 500 else 500, error.message, None)

    def _reply(self, code: int, message: str, data: object) -> Response:
        return jsonify({"code": code, "message": message, "data": data})


def _claims(body: Body) -> bool:
    """Return whether a body is a form of that server."""
    return not body.is_json and ("file" in body.files or "image" in body.fields)


_DIALECT = DdddocrFastapi()
_FIELDS: Mapping[str, Schema] = {"probability": FLAG, "charsets": TEXT}
_IMAGE_TEXT: Schema = {**BASE64, "description": f"{BASE64['description']} Not a file."}
_FORM = any_of(form_with("file", IMAGE_FILE, **_FIELDS), form_with("image", _IMAGE_TEXT, **_FIELDS))

DDDDOCR_FASTAPI = Server(
    reading=(ReadingRoute("/ocr", lambda parts: _DIALECT, _claims),),
    operations=(
        Operation(
            "post", "/ocr", "", "", "",
            "A form with a file `file` or a text `image` is answered as ddddocr-fastapi does.",
            {200: json_reply("", ref("DdddocrFastapiReply"))},
            bodies={FORM_TYPE: _FORM, URLENCODED_TYPE: _FORM},
            error_shapes=(),
        ),
    ),
    schemas={
        "Probabilities": PROBABILITIES,
        "DdddocrFastapiReply": sent_to(
            "a form with a file named file or a text named image, rejected ones included",
            object_of(
                {
                    "code": {"type": "integer", "enum": [200, 400, 500]},
                    "message": TEXT,
                    "data": any_of(TEXT, ref("Probabilities"), NULL),
                }
            ),
        ),
    },
)  # fmt: skip
