"""The dialect of ddddocr-fastapi.

Source: sml2h3/ddddocr-fastapi (app/main.py), as far as callers can see it.
"""

from __future__ import annotations

from flask import Response, jsonify

from qwen_captcha.api.dialects.base import Question, file_or_base64, flag, option_fields
from qwen_captcha.api.request_parsing import Body, PayloadLimits
from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.recognition.answer import Answer, probabilities


class DdddocrFastapi:
    """ddddocr-fastapi: a form with a file `file` or a text `image`; `code` says what happened."""

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return what a request asks."""
        return Question(
            file_or_base64(body, "file", "image", limits),
            limits.parse_options(option_fields(body.fields, "charsets"), body.query),
            flag(body.fields, "probability"),
        )

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return `data`, a text or with `probability` an object."""
        if not answer.success:
            # A caller that looks at `code` alone must not take nothing for an answer.
            return self._reply(500, answer.error or "", "")
        data = probabilities(answer) if question.probability else answer.text
        return self._reply(200, "Success", data)

    def error(self, error: CaptchaServiceError) -> Response:
        """Return code 400 for what the caller can fix, else 500."""
        return self._reply(400 if error.status < 500 else 500, error.message, None)

    def _reply(self, code: int, message: str, data: object) -> Response:
        return jsonify({"code": code, "message": message, "data": data})


DDDDOCR_FASTAPI = DdddocrFastapi()
