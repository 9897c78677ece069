"""Payloads and options of any kind: an image, or an error that is the caller's."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request
from hypothesis import given
from hypothesis import strategies as st

from qwen_captcha.api.forms import CaptchaRequest
from qwen_captcha.api.openapi.option_fields import OPTION_FIELDS
from qwen_captcha.api.request_parsing import (
    PayloadLimits,
    image_from_base64,
    parse_batch,
    parse_single,
    read_body,
)
from qwen_captcha.errors import CaptchaServiceError, InvalidBase64, InvalidOption
from qwen_captcha.recognition.options import Options, parse_options

APP = Flask(__name__)
APP.request_class = CaptchaRequest
LIMITS = PayloadLimits(max_image_bytes=1000, max_batch_images=3)
NAMES = (*(field.name for field in OPTION_FIELDS), "image", "image_base64", "images_base64")
TYPES = ("", "application/json", "application/x-www-form-urlencoded", "image/png", "text/plain",
         "multipart/form-data", "multipart/form-data; boundary=x",
         "application/json; charset=utf-16", "\x00")  # fmt: skip

texts = st.text(max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.sampled_from(NAMES) | texts, values, max_size=5)
multipart = st.builds(
    lambda name, body: (
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n--x--\r\n'
        % (name.encode(), body)
    ),
    st.sampled_from(NAMES),
    st.binary(max_size=60),
)
bodies = st.binary(max_size=200) | objects.map(lambda value: json.dumps(value).encode()) | multipart


def outcome(call: Callable[..., Any], *arguments: object) -> Any:
    """Return what a call returns, or the error for the caller that it raises."""
    try:
        return call(*arguments)
    except CaptchaServiceError as error:
        return error


def is_the_callers(error: object) -> bool:
    """Return whether something is a short error that the caller can fix."""
    return (
        isinstance(error, CaptchaServiceError)
        and 400 <= error.status < 500
        and len(error.message) < 400
    )


@given(bodies, st.sampled_from(TYPES), st.dictionaries(st.sampled_from(NAMES), texts, max_size=3))
def test_any_body_is_an_image_or_a_client_error(
    body: bytes, content_type: str, query: dict[str, str]
) -> None:
    arguments: dict[str, Any] = {"data": body, "content_type": content_type, "query_string": query}
    with APP.test_request_context("/", method="POST", **arguments):
        single = outcome(lambda: parse_single(read_body(request), LIMITS))
        batch = outcome(lambda: parse_batch(request, LIMITS))
    assert is_the_callers(single) or 0 < len(single[0]) <= LIMITS.max_image_bytes
    assert is_the_callers(batch) or 0 < len(batch[0]) <= LIMITS.max_batch_images


@given(objects)
def test_any_options_are_valid_or_rejected(fields: dict[str, object]) -> None:
    first, second = outcome(parse_options, fields), outcome(parse_options, fields)
    if isinstance(first, Options):
        assert first == second
        assert hash(first) == hash(second)
        assert 0.0 <= first.min_confidence <= 1.0
    else:
        assert isinstance(first, InvalidOption)
        assert is_the_callers(first)


@given(st.binary(min_size=1, max_size=300), st.booleans(), st.booleans(), st.integers(1, 80))
def test_base64_of_any_bytes_is_these_bytes(
    data: bytes, url_safe: bool, padded: bool, line: int
) -> None:
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    text = encode(data).decode()
    text = text if padded else text.rstrip("=")
    broken = "\r\n".join(text[start : start + line] for start in range(0, len(text), line))
    for form in (text, broken, f"data:image/png;base64,{text}", f"  DATA:,{broken} "):
        assert image_from_base64(form, LIMITS) == data


@given(st.text(max_size=200))
def test_any_text_is_base64_or_rejected(text: str) -> None:
    found = outcome(image_from_base64, text, LIMITS)
    assert is_the_callers(found) or 0 < len(found) <= LIMITS.max_image_bytes


@pytest.mark.parametrize("value", ["é", "a", "%%%%", 5, None, ["AAAA"]])
def test_invalid_base64_has_its_own_error(value: object) -> None:
    with pytest.raises(InvalidBase64, match="base64"):
        image_from_base64(value, LIMITS)
