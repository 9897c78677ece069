"""The dialect of ocr_api_server.

Source: sml2h3/ocr_api_server (ocr_server.py), as far as callers can see it.
"""

from __future__ import annotations

import json
from http import HTTPStatus

from flask import Response, jsonify

from qwen_captcha.api.dialects.base import Question, file_or_base64
from qwen_captcha.api.request_parsing import Body, PayloadLimits, image_from_base64
from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.recognition.answer import Answer


class OcrApiServer:
    """ocr_api_server: a multipart file `image`, or base64 as the body; the status is always 200.

    Args:
        as_json: Whether the reply is an object or the bare text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return what a request asks; base64 may also stand for a JSON object with `image`."""
        data = file_or_base64(body, "image", "image", limits)
        if data.startswith(b"{"):
            data = image_from_base64(_image_of_object(data), limits)
        return Question(data, limits.parse_options(body.fields, body.query))

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return the text, alone or as `result`."""
        return self._reply(answer.text, answer.error or "")

    def error(self, error: CaptchaServiceError) -> Response:
        """Return an empty text, and as JSON what went wrong."""
        return self._reply("", error.message)

    def _reply(self, text: str, message: str) -> Response:
        if self._as_json:
            return jsonify({"status": HTTPStatus.OK, "result": text, "msg": message})
        return Response(text, mimetype="text/plain")


def _image_of_object(data: bytes) -> object:
    """Return the field `image` of a JSON object, None where there is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found.get("image") if isinstance(found, dict) else None
