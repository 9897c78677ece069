"""What all dialects of ddddocr's servers have in common.

Invariant: every reply and every error has the shape and the status habits of its dialect, and the
options of this service have the same names in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from flask import Response

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


@dataclass(frozen=True, slots=True)
class Question:
    """What a caller asked in a dialect.

    Attributes:
        data: The image file.
        options: The options of this service.
        probability: Whether the reply shall have probabilities.
    """

    data: bytes
    options: Options
    probability: bool = False


class Dialect(Protocol):
    """One server's way to ask and to answer."""

    def parse(self, body: Body, limits: PayloadLimits) -> Question:
        """Return what a request asks; raises the error of what it lacks."""

    def answer(self, question: Question, answer: Answer, seconds: float) -> Response:
        """Return the reply to a question; `seconds` went by since the request came."""

    def error(self, error: CaptchaServiceError) -> Response:
        """Return the reply to a request that failed."""


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
    """Return a yes-or-no field as JSON or a form has it.

    Raises:
        InvalidOption: It is neither.
    """
    value = fields.get(name)
    word = str(False if value is None else value).strip().lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise InvalidOption(f"{name} must be true or false.")
    return word in TRUE_WORDS
