"""The dialect of `ddddocr api` 1.6.

Source: ddddocr 1.6.1 (api/app.py), as far as callers can see it.
"""

from __future__ import annotations

from flask import Response, jsonify

from qwen_captcha.api.dialects.base import Question, file_or_base64, flag, option_fields
from qwen_captcha.api.request_parsing import Body, PayloadLimits
from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.recognition.answer import Answer, probabilities


class DdddocrApi:
    """`ddddocr api` 1.6: JSON with `image`, or a multipart file `file`; errors have a status."""

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return what a request asks."""
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


DDDDOCR_API = DdddocrApi()
