"""The dialects of ddddocr's own servers: their callers' requests, and replies they understand.

Responsible for: whose request `POST /ocr` is; fields, replies and errors of `ddddocr api` 1.6, of
ocr_api_server and of ddddocr-fastapi. Invariant: every reply and every error has the shape and the
status habits of the dialect, and the options of this service have the same names in all.

Sources: ddddocr 1.6.1 (api/app.py), sml2h3/ocr_api_server (ocr_server.py), sml2h3/ddddocr-fastapi
(app/main.py), as far as callers can see them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from flask import Response, jsonify

from qwen_captcha.errors import CaptchaServiceError, InvalidOption, MissingImage
from qwen_captcha.options import Options
from qwen_captcha.payload import Body, PayloadLimits, image_from_base64, image_from_file
from qwen_captcha.recognition import Answer

TRUE_WORDS = ("true", "1", "yes", "y", "on")
FALSE_WORDS = ("false", "0", "no", "n", "off", "")
# What colour filters look like that filter nothing, in JSON and in a form.
NO_COLORS: tuple[object, ...] = (None, "", "[]", "null", "{}", [], {})
COLORS_IGNORED = "colors and custom_color_ranges had no effect: the model sees the whole image."
RANGE_NUMBERS = tuple("01234567")


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asked in a dialect.

    Attributes:
        data: The image file.
        options: The options of this service.
        probability: Whether the reply shall have probabilities.
        warnings: What was asked for and has no effect.
    """

    data: bytes
    options: Options
    probability: bool = False
    warnings: tuple[str, ...] = ()


class Dialect(Protocol):
    """One server's way to ask and to answer."""

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return what a request asks; raises the error of what it lacks."""

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return the reply to a question; `seconds` went by since the request came."""

    def error(self, error: CaptchaServiceError) -> Response:
        """Return the reply to a request that failed."""


class DdddocrApi:
    """`ddddocr api` 1.6: JSON with `image`, or a multipart file `file`; errors have a status."""

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return what a request asks."""
        colored = any(
            body.fields.get(name) not in NO_COLORS for name in ("colors", "custom_color_ranges")
        )
        return Question(
            _file_or_base64(body, "file", "image", limits),
            limits.parse_options(option_fields(body.fields, "charset_range"), body.query),
            _flag(body.fields, "probability"),
            (COLORS_IGNORED,) if colored else (),
        )

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return `result`, a text or with `probability` an object, as that server does."""
        body: dict[str, object] = {
            "result": probabilities(answer) if question.probability else answer.text,
            "probability": None,
            "processing_time": round(seconds, 6),
        }
        warnings = [*question.warnings, *answer.warnings]
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


class OcrApiServer:
    """ocr_api_server: a multipart file `image`, or base64 as the body; the status is always 200.

    Args:
        as_json: Whether the reply is an object or the bare text.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return what a request asks; base64 may also stand for a JSON object with `image`."""
        data = _file_or_base64(body, "image", "image", limits)
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


class DdddocrFastapi:
    """ddddocr-fastapi: a form with a file `file` or a text `image`; `code` says what happened."""

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return what a request asks."""
        return Question(
            _file_or_base64(body, "file", "image", limits),
            limits.parse_options(option_fields(body.fields, "charsets"), body.query),
            _flag(body.fields, "probability"),
        )

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return `data`, a text or with `probability` an object."""
        if not answer.success:
            # A caller that looks at `code` alone must not take nothing for an answer.
            return self._reply(500, answer.error or "", "")
        data = probabilities(answer) if question.probability else answer.text
        return self._reply(200, "Success", data)

    def error(self, error: CaptchaServiceError) -> Response:
        """Return code 400 for what the caller can mend, else 500."""
        return self._reply(400 if error.status < 500 else 500, error.message, None)

    def _reply(self, code: int, message: str, data: object) -> Response:
        return jsonify({"code": code, "message": message, "data": data})


DDDDOCR_API = DdddocrApi()
DDDDOCR_FASTAPI = DdddocrFastapi()


def dialect_of(body: Body) -> Dialect | None:
    """Return whose request `POST /ocr` is, None for one of this service's own."""
    if body.image is not None or "image" in body.files or "image_base64" in body.fields:
        return None
    if body.is_json:
        return DDDDOCR_API if "image" in body.fields else None
    if "file" in body.files or "image" in body.fields:
        return DDDDOCR_FASTAPI
    return None


def option_fields(fields: Mapping[str, object], range_name: str) -> dict[str, object]:
    """Return the fields of a request with ddddocr's range of characters as an option of ours.

    Args:
        fields: The fields of the request.
        range_name: The field that has the range: a number from 0 to 7, a text of characters or a
            list of them; blank where there is none.

    Raises:
        InvalidOption: There is a `charset`, too.
    """
    others = {name: value for name, value in fields.items() if name != range_name}
    value = fields.get(range_name)
    characters = isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(value, list) and characters:
        value = "".join(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return others
    if str(others.get("charset") or "").strip():
        raise InvalidOption(f"charset and {range_name} exclude each other: give only one of them.")
    if characters or (isinstance(value, str) and value.strip() not in RANGE_NUMBERS):
        return {**others, "charset": value}
    return {**others, "charset_range": value}


def probabilities(answer: Answer) -> dict[str, object]:
    """Return the compact form of what ddddocr calls `probability`.

    The loop of ddddocr's documentation, which joins the most probable character of each row,
    gives the text. The model judges whole readings, so a row holds the same share of the
    confidence for each character: the product over the rows is the confidence.
    """
    characters = sorted(set(answer.text))
    share = answer.confidence ** (1 / max(1, len(answer.text)))
    # Never 0, or the most probable character of a row would be the empty one.
    share = max(share, 1e-9)
    return {
        "text": answer.text,
        "confidence": answer.confidence,
        "charsets": ["", *characters],
        "probability": [
            [0.0, *(share if character == read else 0.0 for character in characters)]
            for read in answer.text
        ],
    }


def _file_or_base64(body: Body, file_name: str, text_name: str, limits: PayloadLimits) -> bytes:
    """Return the image in a file field, else in a text field of base64."""
    file = body.files.get(file_name)
    if file is not None:
        return image_from_file(file, limits)
    text = body.fields.get(text_name)
    if text is None:
        raise MissingImage(f"No image was sent: neither a file {file_name} nor base64.")
    return image_from_base64(text, limits)


def _image_of_object(data: bytes) -> object:
    """Return the field `image` of a JSON object, None where there is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found.get("image") if isinstance(found, dict) else None


def _flag(fields: Mapping[str, object], name: str) -> bool:
    """Return a yes-or-no field as JSON or a form has it.

    Raises:
        InvalidOption: It is neither.
    """
    value = fields.get(name)
    word = str(False if value is None else value).strip().lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise InvalidOption(f"{name} must be true or false.")
    return word in TRUE_WORDS
