"""The dialect of ocr_api_server.

Source: sml2h3/ocr_api_server (ocr_server.py), as far as clients depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from flask import Response, jsonify, request

from qwen_captcha.api.dialects.base import (
    TAG,
    TEXT,
    TEXT_REPLY,
    OtherRoute,
    Question,
    ReadingRoute,
    Server,
    file_or_base64,
)
from qwen_captcha.api.openapi.operation import (
    FORM_TYPE,
    JSON_TYPE,
    TEXT_TYPE,
    Operation,
    Reply,
)
from qwen_captcha.api.openapi.option_fields import form_with
from qwen_captcha.api.openapi.schemas import BASE64, IMAGE_FILE, Schema, object_of, ref
from qwen_captcha.api.request_parsing import Body, PayloadLimits, image_from_base64
from qwen_captcha.errors import CaptchaServiceError, NotFound
from qwen_captcha.recognition.answer import Answer


class OcrApiServer:
    """ocr_api_server: a multipart file `image`, or base64 as the body; the status is always 200.

    Args:
        as_json: Whether the reply is an object or the bare text.
        takes_text: Whether a body that is no form and no image is base64.
    """

    def __init__(self, *, as_json: bool, takes_text: bool = False) -> None:
        self._as_json = as_json
        self._takes_text = takes_text

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return the question of a request; base64 may also encode a JSON object with `image`."""
        has_image = body.image is not None or "image" in body.fields or "image" in body.files
        if self._takes_text and not has_image:
            text = request.get_data().decode("utf-8", "replace")
            body = Body(fields={"image": text}, query=request.args)
        data = file_or_base64(body, "image", "image", limits)
        if data.startswith(b"{"):
            data = image_from_base64(_image_of_object(data), limits)
        return Question(data, limits.parse_options(body.fields, body.query))

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return the text, alone or as `result`."""
        return self._reply(answer.text, answer.error or "")

    def error(self, error: CaptchaServiceError) -> Response:
        """Return an empty text, with the error message if the reply is JSON."""
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


def ping() -> Response:
    """Return the reply to a liveness probe."""
    return Response("pong", mimetype="text/plain")


def _file_dialect(parts: Mapping[str, str]) -> OcrApiServer:
    return OcrApiServer(as_json=parts.get("form") == "json")


def _base64_dialect(parts: Mapping[str, str]) -> OcrApiServer:
    return OcrApiServer(as_json=parts.get("form") == "json", takes_text=True)


_FORMS = {"form": ("text", "json")}
_TEXT_OR_JSON = Reply(
    "The text, or an object; an error is an empty text, or in msg.",
    {**TEXT_REPLY, JSON_TYPE: ref("OcrApiServerReply")},
    ("X-Cache",),
)
_TEXT_ALONE = Reply("The text; empty where there is none.", TEXT_REPLY, ("X-Cache",))
_FILE_FORM: Mapping[str, Schema] = {FORM_TYPE: form_with("image", IMAGE_FILE)}

OCR_API_SERVER = Server(
    reading=(
        ReadingRoute(
            "/ocr/file",
            _file_dialect,
            lambda body: "image" in body.files and "file" not in body.files,
        ),
        ReadingRoute("/ocr/file/<any(text, json):form>", _file_dialect),
        ReadingRoute("/ocr/b64", _base64_dialect),
        ReadingRoute("/ocr/b64/<any(text, json):form>", _base64_dialect),
    ),
    others=(OtherRoute("/ping", "GET", "ping", ping),),
    operations=(
        Operation(
            "get", "/ping", "ping", TAG, "Whether the process is up, for ocr_api_server's callers",
            "", {200: Reply("The text pong.", TEXT_REPLY)},
        ),
        Operation(
            "post", "/ocr/file", "", "", "", "A file `image` is answered as ocr_api_server does.",
            {200: Reply("The bare text for a file `image`.", TEXT_REPLY)},
            bodies=_FILE_FORM, error_shapes=(),
        ),
        Operation(
            "post", "/ocr/file/{form}", "readFileAs", TAG,
            "Read a file, for ocr_api_server's callers", "", {200: _TEXT_OR_JSON},
            bodies=_FILE_FORM, takes_options=True, errors=(NotFound,), path_values=_FORMS,
            guarded=False,
        ),
        Operation(
            "post", "/ocr/b64", "readBase64", TAG, "Read base64, for ocr_api_server's callers",
            "The body is the text.", {200: _TEXT_ALONE},
            bodies={TEXT_TYPE: BASE64}, takes_options=True, guarded=False,
        ),
        Operation(
            "post", "/ocr/b64/{form}", "readBase64As", TAG,
            "Read base64, for ocr_api_server's callers", "The body is the text.",
            {200: _TEXT_OR_JSON},
            bodies={TEXT_TYPE: BASE64}, takes_options=True, errors=(NotFound,), path_values=_FORMS,
            guarded=False,
        ),
    ),
    schemas={
        "OcrApiServerReply": object_of(
            {"status": {"type": "integer", "const": 200}, "result": TEXT, "msg": TEXT}
        ),
    },
)  # fmt: skip
