"""The parts that all dialects of ddddocr's servers share.

Each reply and each error has the shape and the status codes of its dialect. The options of this
service have the same names in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from flask import Response

from qwen_captcha.api.openapi.operation import Operation
from qwen_captcha.api.openapi.option_fields import word_in_any_case
from qwen_captcha.api.openapi.schemas import Schema, any_of, object_of
from qwen_captcha.api.request_parsing import (
    Body,
    PayloadLimits,
    image_from_base64,
    image_from_file,
    within_limit,
)
from qwen_captcha.errors import CaptchaServiceError, InvalidOption, MissingImage
from qwen_captcha.recognition.answer import Answer
from qwen_captcha.recognition.options import Options

TRUE_WORDS = ("true", "1", "yes", "y", "on")
FALSE_WORDS = ("false", "0", "no", "n", "off", "")
RANGE_NUMBERS = tuple("01234567")

TAG = "ddddocr's servers"
TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
NUMBER: Schema = {"type": "number"}
NULL: Schema = {"type": "null"}
TEXT_REPLY: Mapping[str, Schema] = {"text/plain; charset=utf-8": TEXT}
_FLAG_WORDS = "|".join(word_in_any_case(word) for word in TRUE_WORDS + FALSE_WORDS if word)
FLAG: Schema = any_of(
    {"type": "boolean"},
    {"type": "integer", "enum": [0, 1]},
    {"type": "string", "pattern": rf"^\s*(?:{_FLAG_WORDS})?\s*$"},
)
PROBABILITIES: Schema = object_of(
    {
        "text": TEXT,
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "charsets": TEXTS,
        "probability": {"type": "array", "items": {"type": "array", "items": NUMBER}},
    }
)


@dataclass(frozen=True, slots=True)
class Question:
    """One image to read, from a request in a dialect.

    Attributes:
        data: The image file.
        options: The options of this service.
        probability: Whether the reply must contain probabilities.
    """

    data: bytes
    options: Options
    probability: bool = False


class Dialect(Protocol):
    """The requests and replies of one server."""

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return the question of a request.

        Raises:
            CaptchaServiceError: The request has no valid image, or an option is not allowed.
        """

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return the reply to a question, `seconds` after the request arrived."""

    def error(self, error: CaptchaServiceError) -> Response:
        """Return the reply to a request that failed."""


@dataclass(frozen=True, slots=True)
class ReadingRoute:
    """A URL at which a server reads one image.

    Attributes:
        rule: The path as Flask writes it.
        dialect: Returns the dialect, from the variable parts of the path.
        claims: Whether a body is meant for this server; several servers may have the same path.
    """

    rule: str
    dialect: Callable[[Mapping[str, str]], Dialect]
    claims: Callable[[Body], bool] = lambda body: True


@dataclass(frozen=True, slots=True)
class OtherRoute:
    """A URL of a server that reads no image.

    Attributes:
        rule: The path as Flask writes it.
        method: In upper case.
        name: Endpoint name, unique among the routes of all dialects.
        reply: Returns the reply, or raises the error.
        dialect: The dialect of errors; None for errors of this service.
    """

    rule: str
    method: str
    name: str
    reply: Callable[[], Response]
    dialect: Dialect | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """One server whose API this service implements.

    Attributes:
        reading: The URLs at which it reads an image.
        others: Its other URLs.
        operations: The same URLs for the OpenAPI document; those of a shared path are merged.
        schemas: The schemas that `operations` refer to.
    """

    reading: tuple[ReadingRoute, ...]
    operations: tuple[Operation, ...]
    schemas: Mapping[str, Schema]
    others: tuple[OtherRoute, ...] = ()


def option_fields(fields: Mapping[str, object], range_name: str) -> dict[str, object]:
    """Return the fields of a request with ddddocr's charset range as an option of this service.

    Args:
        fields: The fields of the request.
        range_name: The field that has the range: a number from 0 to 7, a text of characters or a
            list of them; may be blank or missing.

    Raises:
        InvalidOption: The request also has a `charset`.
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


def file_or_base64(body: Body, file_name: str, text_name: str, limits: PayloadLimits) -> bytes:
    """Return the image in a file field, in a text field of base64, or the body itself."""
    file = body.file(file_name)
    if file is not None:
        return image_from_file(file, limits)
    if body.image is not None:
        return within_limit(body.image, limits)
    text = body.fields.get(text_name)
    if text is None:
        raise MissingImage(f"No image was sent: neither a file {file_name} nor base64.")
    return image_from_base64(text, limits)


def flag(fields: Mapping[str, object], name: str) -> bool:
    """Return the value of a yes-or-no field of JSON or a form.

    Raises:
        InvalidOption: The value is neither true nor false.
    """
    value = fields.get(name)
    word = str(False if value is None else value).strip().lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise InvalidOption(f"{name} must be true or false.")
    return word in TRUE_WORDS
