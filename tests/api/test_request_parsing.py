"""Payloads: each form of request gives its image and options, and each misuse its own error."""

from __future__ import annotations

import base64
import json
import random
import re
import textwrap
from io import BytesIO
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask, request
from PIL import Image
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.test import encode_multipart

from qwen_captcha.api.forms import CaptchaRequest
from qwen_captcha.api.request_parsing import (
    ImageUpload,
    PayloadLimits,
    parse_batch,
    parse_single,
    read_body,
)
from qwen_captcha.errors import (
    BadRequest,
    CaptchaServiceError,
    EmptyImage,
    ImageTooLarge,
    InvalidBase64,
    InvalidOption,
    MissingImage,
    TooManyImages,
    UndecodableImage,
)
from qwen_captcha.images.decode import ImageLimits, decode_image
from qwen_captcha.recognition.options import (
    Case,
    Kind,
    Options,
)

LIMITS = PayloadLimits(max_image_bytes=1000, max_batch_images=3)
FORM = "application/x-www-form-urlencoded"


def encoded_image(format_name: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (5, 4), "white").save(buffer, format_name)
    return buffer.getvalue()


def noise() -> bytes:
    """Return an image whose base64 has all characters of the alphabet, and no padding."""
    buffer = BytesIO()
    Image.frombytes("RGB", (40, 40), random.Random(2).randbytes(4800)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = encoded_image()
# Bytes whose base64 has both of the characters in which the alphabets differ, and padding.
ODD = b"?\xef\xbf\xbe"
ODD_BASE64 = base64.b64encode(ODD).decode()


def flask_app() -> Flask:
    app = Flask(__name__)
    app.request_class = CaptchaRequest
    return app


def single(limits: PayloadLimits = LIMITS, **kwargs: Any) -> tuple[bytes, Options]:
    with flask_app().test_request_context("/ocr", method="POST", **kwargs):
        return parse_single(read_body(request), limits)


def batch(limits: PayloadLimits = LIMITS, **kwargs: Any) -> tuple[list[ImageUpload], Options]:
    with flask_app().test_request_context("/batch-ocr", method="POST", **kwargs):
        return parse_batch(request, limits)


def file_of(data: bytes, name: str = "captcha.png") -> tuple[BytesIO, str]:
    return BytesIO(data), name


def test_base64_of_the_odd_bytes_shows_both_alphabets() -> None:
    assert {"+", "/", "="} <= set(ODD_BASE64)


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        pytest.param({"data": {"image": file_of(PNG)}}, PNG, id="multipart file"),
        pytest.param({"data": {"image": file_of(ODD, "")}}, ODD, id="multipart file without name"),
        pytest.param(
            {"data": {"image_base64": ODD_BASE64}, "content_type": "multipart/form-data"},
            ODD,
            id="multipart text",
        ),
        pytest.param({"json": {"image_base64": ODD_BASE64}}, ODD, id="json"),
        pytest.param(
            {"data": json.dumps({"image_base64": ODD_BASE64}), "content_type": "Application/JSON"},
            ODD,
            id="json in capitals",
        ),
        pytest.param(
            {
                "data": json.dumps({"image_base64": ODD_BASE64}),
                "content_type": "application/json; charset=utf-8",
            },
            ODD,
            id="json with charset",
        ),
        pytest.param(
            {
                "data": b"\xef\xbb\xbf" + json.dumps({"image_base64": ODD_BASE64}).encode(),
                "content_type": "application/json",
            },
            ODD,
            id="json with byte order mark",
        ),
        pytest.param(
            {"json": {"image_base64": f"data:image/png;base64,{ODD_BASE64}"}}, ODD, id="data URI"
        ),
        pytest.param(
            {"json": {"image_base64": f" DATA:;base64,\n{ODD_BASE64}"}}, ODD, id="data URI odd"
        ),
        pytest.param(
            {"json": {"image_base64": "\n".join(ODD_BASE64) + "\r\n"}}, ODD, id="base64 in lines"
        ),
        pytest.param(
            {"json": {"image_base64": base64.urlsafe_b64encode(ODD).decode()}},
            ODD,
            id="base64 url-safe",
        ),
        pytest.param(
            {"json": {"image_base64": ODD_BASE64.rstrip("=")}}, ODD, id="base64 without padding"
        ),
        pytest.param({"data": {"image_base64": ODD_BASE64}}, ODD, id="urlencoded"),
        pytest.param(
            {"data": f"image_base64={ODD_BASE64}", "content_type": FORM},
            ODD,
            id="urlencoded with bare plus",
        ),
        pytest.param({"data": PNG, "content_type": "image/png"}, PNG, id="raw png"),
        pytest.param({"data": PNG, "content_type": "image/jpeg"}, PNG, id="raw mislabelled"),
        pytest.param({"data": b"%PDF", "content_type": "image/x"}, b"%PDF", id="raw unknown"),
        pytest.param(
            {"data": b"\0\1", "content_type": "application/octet-stream"}, b"\0\1", id="raw octets"
        ),
        pytest.param({"data": PNG}, PNG, id="raw without type"),
        pytest.param({"data": PNG, "content_type": FORM}, PNG, id="raw as curl sends it"),
        pytest.param({"data": PNG, "content_type": "text/plain"}, PNG, id="raw as text"),
        pytest.param({"data": PNG, "content_type": "application/json"}, PNG, id="raw as json"),
    ],
)
def test_image_arrives_in_every_form(kwargs: dict[str, Any], expected: bytes) -> None:
    assert single(**kwargs) == (expected, Options())


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_raw_body_is_known_by_its_first_bytes(format_name: str) -> None:
    data = encoded_image(format_name)
    assert single(data=data, content_type=FORM)[0] == data


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({"data": {"image": file_of(PNG), "case": "upper"}}, id="multipart"),
        pytest.param({"json": {"image_base64": "AAAA", "case": "upper"}}, id="json"),
        pytest.param({"data": {"image_base64": "AAAA", "case": "upper"}}, id="urlencoded"),
        pytest.param({"data": PNG, "query_string": {"case": "upper"}}, id="raw and query"),
        pytest.param(
            {"data": {"image": file_of(PNG)}, "query_string": {"case": "upper"}},
            id="multipart and query",
        ),
        pytest.param(
            {"json": {"image_base64": "AAAA", "case": "upper"}, "query_string": {"case": "lower"}},
            id="json over query",
        ),
    ],
)
def test_options_arrive_in_every_form(kwargs: dict[str, Any]) -> None:
    assert single(**kwargs)[1] == Options(case=Case.UPPER)


def test_chinese_in_the_query_is_decoded() -> None:
    assert single(data=PNG, query_string={"prompt": "读"})[1] == Options(prompt="读")


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        pytest.param({}, MissingImage, id="nothing"),
        pytest.param({"data": b"", "content_type": FORM}, MissingImage, id="empty form"),
        pytest.param({"data": {"prompt": "Read."}}, MissingImage, id="form without image"),
        pytest.param(
            {"data": {"picture": file_of(PNG), "logo": file_of(PNG)}},
            MissingImage,
            id="multipart, two other fields",
        ),
        pytest.param(
            {"data": b"--x", "content_type": "multipart/form-data"},
            BadRequest,
            id="multipart without boundary",
        ),
        pytest.param(
            {"data": b"--x\r\nA: b", "content_type": "multipart/form-data; boundary=x"},
            BadRequest,
            id="multipart cut",
        ),
        pytest.param({"json": {}}, MissingImage, id="json without image"),
        pytest.param({"json": {"image_base64": None}}, MissingImage, id="json null"),
        pytest.param({"data": b"a3b9", "content_type": "text/plain"}, MissingImage, id="raw text"),
        pytest.param({"data": {"image": file_of(b"")}}, EmptyImage, id="multipart empty"),
        pytest.param({"json": {"image_base64": ""}}, EmptyImage, id="json empty"),
        pytest.param({"json": {"image_base64": " \n"}}, EmptyImage, id="json blank"),
        pytest.param(
            {"json": {"image_base64": "data:image/png;base64,"}}, EmptyImage, id="data URI empty"
        ),
        pytest.param({"data": b"", "content_type": "image/png"}, EmptyImage, id="raw empty"),
        pytest.param({"json": {"image_base64": "!!!!"}}, InvalidBase64, id="not base64"),
        pytest.param(
            {"json": {"image_base64": "https://example.org/a.png"}}, InvalidBase64, id="address"
        ),
        pytest.param({"json": {"image_base64": "AAAAA"}}, InvalidBase64, id="cut base64"),
        pytest.param({"json": {"image_base64": "AA=A"}}, InvalidBase64, id="padding inside"),
        pytest.param({"json": {"image_base64": "验证码"}}, InvalidBase64, id="Chinese"),
        pytest.param({"json": {"image_base64": "\ud800"}}, InvalidBase64, id="half a surrogate"),
        pytest.param({"json": {"image_base64": 5}}, InvalidBase64, id="number"),
        pytest.param({"json": {"image_base64": ["AAAA"]}}, InvalidBase64, id="list"),
        pytest.param(
            {"json": {"image_base64": "data:image/png;base64"}}, EmptyImage, id="data URI cut"
        ),
        pytest.param(
            {"data": b"", "content_type": "application/json"}, BadRequest, id="json body empty"
        ),
        pytest.param(
            {"data": b"{", "content_type": "application/json"}, BadRequest, id="json malformed"
        ),
        pytest.param(
            {"data": b"\xff\xfe\xff", "content_type": "application/json"},
            BadRequest,
            id="json not text",
        ),
        pytest.param(
            {"data": b"[" * 100_000, "content_type": "application/json"},
            BadRequest,
            id="json nested deeply",
        ),
        pytest.param(
            {"data": b"1" * 10_000, "content_type": "application/json"},
            BadRequest,
            id="json number too long",
        ),
        pytest.param({"json": ["AAAA"]}, BadRequest, id="json list"),
        pytest.param({"json": "AAAA"}, BadRequest, id="json text"),
        pytest.param(
            {"data": {"image": file_of(PNG), "case": "title"}}, InvalidOption, id="option in form"
        ),
        pytest.param(
            {"json": {"image_base64": "AAAA", "prompt": 5}}, InvalidOption, id="option in json"
        ),
        pytest.param(
            {"data": PNG, "query_string": {"kind": "x"}}, InvalidOption, id="option in query"
        ),
    ],
)
def test_misuse_has_its_own_error(kwargs: dict[str, Any], error: type[CaptchaServiceError]) -> None:
    with pytest.raises(CaptchaServiceError) as caught:
        single(**kwargs)
    assert type(caught.value) is error
    assert caught.value.message.endswith(".")


NOISE = noise()
BASE64 = base64.b64encode(NOISE).decode()


def part(headers: str, data: bytes, boundary: str = "x") -> dict[str, Any]:
    """Return a form of one part with the given headers."""
    body = f"--{boundary}\r\n{headers}\r\n\r\n".encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return {"data": body, "content_type": f"multipart/form-data; boundary={boundary}"}


def spelled(text: str) -> dict[str, Any]:
    return {"json": {"image_base64": text}}


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param(spelled(f'"{BASE64}"'), id="quoted"),
        pytest.param(spelled(f"b'{BASE64}'"), id="printed by Python"),
        pytest.param(spelled(BASE64.replace("/", "\\/")), id="slashes escaped"),
        pytest.param(spelled(textwrap.fill(BASE64, 76).replace("\n", "\\n")), id="breaks spelled"),
        pytest.param(spelled(textwrap.fill(BASE64, 76).replace("\n", " ")), id="breaks as spaces"),
        pytest.param(spelled(textwrap.fill(BASE64, 76).replace("\n", "\r\n")), id="breaks of MIME"),
        pytest.param(spelled(BASE64.replace("+", "\\u002b")), id="plus escaped"),
        pytest.param(spelled(quote(BASE64, safe="")), id="percent-encoded"),
        pytest.param(spelled(quote(f"data:image/png;base64,{BASE64}")), id="data URI encoded"),
        pytest.param(spelled(BASE64.replace("+", " ")), id="plus as space"),
        pytest.param(spelled(f"base64,{BASE64}"), id="half a data URI"),
        pytest.param(spelled(f"({BASE64})"), id="other characters"),
        pytest.param(
            {"data": json.dumps({"image_base64": BASE64}), "content_type": FORM}, id="curl -d"
        ),
        pytest.param({"data": json.dumps({"image_base64": BASE64})}, id="json without type"),
        pytest.param(
            {"data": json.dumps({"image_base64": BASE64}), "content_type": "text/plain"},
            id="json as text",
        ),
        pytest.param(
            {
                "data": json.dumps({"image_base64": f"data:image/png;base64,{BASE64}"}),
                "content_type": "image/png",
            },
            id="json as an image",
        ),
        pytest.param({"data": BASE64, "content_type": FORM}, id="base64 as a form"),
        pytest.param({"data": BASE64, "content_type": "image/png"}, id="base64 as an image"),
        pytest.param({"data": f'"{BASE64}"', "content_type": "application/json"}, id="json text"),
        pytest.param({"data": {"picture": file_of(NOISE)}}, id="another field"),
        pytest.param(
            part('Content-Disposition: form-data; name="image"', NOISE), id="part without filename"
        ),
        pytest.param(
            part('Content-Disposition: form-data; filename="a.png"', NOISE), id="part without name"
        ),
        pytest.param(part("Content-Disposition: form-data", NOISE), id="part with neither"),
    ],
)
def test_image_arrives_where_only_one_reading_is_possible(kwargs: dict[str, Any]) -> None:
    assert single(PayloadLimits(max_image_bytes=20_000, max_batch_images=1), **kwargs)[0] == NOISE


def test_text_in_a_form_with_an_unnamed_file_stays_utf_8() -> None:
    head = 'Content-Disposition: form-data; name="prompt"\r\n\r\n验证码\r\n--x\r\n'
    kwargs = part(head + 'Content-Disposition: form-data; name="image"', PNG)
    assert single(**kwargs) == (PNG, Options(prompt="验证码"))


def test_base64_of_an_image_in_a_form_field_is_the_field() -> None:
    with flask_app().test_request_context(
        "/ocr", method="POST", data=f"image=data:image/png;base64,{BASE64}", content_type=FORM
    ):
        body = read_body(request)
    assert body.image is None
    assert list(body.fields) == ["image"]


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        pytest.param(re.sub(rb"[\r\n\0]", b"", PNG), "--data-binary", id="png through curl -d"),
        pytest.param(
            re.sub(rb"[\r\n\0]", b"", encoded_image("JPEG")),
            "--data-binary",
            id="jpeg through curl -d",
        ),
        pytest.param(PNG.replace(b"\r\n", b"\n"), "--data-binary", id="line breaks of Unix"),
        pytest.param(
            PNG.decode("utf-8", "replace").encode(), "as text", id="replacement characters"
        ),
        pytest.param(PNG.decode("latin-1").encode(), "as text", id="binary string"),
        pytest.param(encoded_image("JPEG").decode("latin-1").encode(), "as text", id="jpeg string"),
    ],
)
def test_an_image_sent_as_text_has_its_own_error(data: bytes, hint: str) -> None:
    image, _ = single(data=data, content_type=FORM)
    with pytest.raises(UndecodableImage, match=hint):
        decode_image(image, ImageLimits(max_image_pixels=1000, max_frames=1))


@pytest.mark.parametrize(
    "kwargs_of",
    [
        pytest.param(lambda data: {"data": {"image": file_of(data)}}, id="multipart"),
        pytest.param(
            lambda data: {"json": {"image_base64": base64.b64encode(data).decode()}}, id="json"
        ),
        pytest.param(lambda data: {"data": data, "content_type": "image/png"}, id="raw"),
    ],
)
@pytest.mark.parametrize("limit", [999, 1000, 1001])
def test_byte_limit_is_exact_in_every_form(kwargs_of: Any, limit: int) -> None:
    limits = PayloadLimits(max_image_bytes=limit, max_batch_images=1)
    assert single(limits, **kwargs_of(b"x" * limit))[0] == b"x" * limit
    with pytest.raises(ImageTooLarge, match=f"{limit} bytes"):
        single(limits, **kwargs_of(b"x" * (limit + 1)))


def test_base64_over_the_limit_is_rejected_before_decoding() -> None:
    with pytest.raises(ImageTooLarge):
        single(json={"image_base64": "!" * 4000})


def test_whitespace_in_base64_does_not_count() -> None:
    spaced = " " * 5000 + base64.b64encode(b"x" * 1000).decode()
    assert single(json={"image_base64": spaced})[0] == b"x" * 1000


def test_large_upload_leaves_no_open_file() -> None:
    # Werkzeug keeps uploads of more than 500 kB in a temporary file.
    limits = PayloadLimits(max_image_bytes=2_000_000, max_batch_images=1)
    data = b"x" * 1_000_000
    boundary, body = encode_multipart({"image": FileStorage(BytesIO(data), "captcha.png")})
    content_type = f"multipart/form-data; boundary={boundary}"
    assert single(limits, data=body, content_type=content_type)[0] == data


def test_multipart_batch_keeps_order_and_names() -> None:
    files = [file_of(PNG, "b.png"), file_of(ODD, "a.png"), file_of(PNG, "b.png")]
    uploads, options = batch(data={"images": files, "kind": "digits"})
    assert uploads == [
        ImageUpload("b.png", PNG),
        ImageUpload("a.png", ODD),
        ImageUpload("b.png", PNG),
    ]
    assert options == Options(kind=Kind.DIGITS)


@pytest.mark.parametrize(
    "names", [["images[]"] * 3, ["images[0]", "images[1]", "images[2]"], ["images"] * 3]
)
def test_a_batch_is_named_as_php_and_jquery_name_it(names: list[str]) -> None:
    files = [(name, file_of(PNG, f"{number}.png")) for number, name in enumerate(names)]
    uploads, _ = batch(data=MultiDict(files))
    assert [upload.filename for upload in uploads] == ["0.png", "1.png", "2.png"]


def test_numbers_of_a_batch_are_its_order() -> None:
    files = {f"images[{number}]": file_of(PNG, f"{number}.png") for number in (2, 10, 1)}
    uploads, _ = batch(data=files)
    assert [upload.filename for upload in uploads] == ["1.png", "2.png", "10.png"]


def test_json_batch_names_images_by_position() -> None:
    body = {"images_base64": [ODD_BASE64, f"data:image/png;base64,{ODD_BASE64}"], "case": "lower"}
    uploads, options = batch(json=body, query_string={"case": "upper", "prompt": "Read."})
    assert uploads == [ImageUpload("image_1", ODD), ImageUpload("image_2", ODD)]
    assert options == Options(case=Case.LOWER, prompt="Read.")


def test_unnamed_file_is_named_by_position() -> None:
    uploads, _ = batch(data={"images": [file_of(PNG, "a.png"), file_of(ODD, "")]})
    assert [upload.filename for upload in uploads] == ["a.png", "image_2"]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        pytest.param("", EmptyImage, id="empty"),
        pytest.param("!!!!", InvalidBase64, id="not base64"),
        pytest.param(None, InvalidBase64, id="null"),
        pytest.param(5, InvalidBase64, id="number"),
        pytest.param("A" * 4000, ImageTooLarge, id="too large"),
    ],
)
def test_bad_base64_fails_alone(bad: object, error: type[CaptchaServiceError]) -> None:
    uploads, _ = batch(json={"images_base64": [ODD_BASE64, bad, ODD_BASE64]})
    assert [upload.data for upload in uploads[::2]] == [ODD, ODD]
    assert type(uploads[1].data) is error
    assert uploads[1].filename == "image_2"


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        pytest.param(b"", EmptyImage, id="empty"),
        pytest.param(b"x" * 1001, ImageTooLarge, id="too large"),
    ],
)
def test_bad_file_fails_alone(bad: bytes, error: type[CaptchaServiceError]) -> None:
    uploads, _ = batch(data={"images": [file_of(bad, "bad.png"), file_of(PNG, "good.png")]})
    assert type(uploads[0].data) is error
    assert uploads[1] == ImageUpload("good.png", PNG)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        pytest.param({}, MissingImage, id="nothing"),
        pytest.param({"json": {}}, MissingImage, id="json without images"),
        pytest.param({"json": {"images_base64": []}}, MissingImage, id="json empty list"),
        pytest.param({"json": {"images_base64": None}}, MissingImage, id="json null"),
        pytest.param({"data": {"image": file_of(PNG)}}, MissingImage, id="field of /ocr"),
        pytest.param({"data": PNG, "content_type": "image/png"}, MissingImage, id="raw"),
        pytest.param({"json": {"images_base64": "AAAA"}}, BadRequest, id="json not a list"),
        pytest.param({"json": {"images_base64": {"a": "AAAA"}}}, BadRequest, id="json object"),
        pytest.param({"json": [ODD_BASE64]}, BadRequest, id="json body is a list"),
        pytest.param({"json": {"images_base64": ["AAAA"] * 4}}, TooManyImages, id="json too many"),
        pytest.param(
            {"data": {"images": [file_of(PNG) for _ in range(4)]}},
            TooManyImages,
            id="files too many",
        ),
        pytest.param(
            {"json": {"images_base64": ["AAAA"], "kind": "x"}}, InvalidOption, id="option"
        ),
    ],
)
def test_misused_batch_has_its_own_error(
    kwargs: dict[str, Any], error: type[CaptchaServiceError]
) -> None:
    with pytest.raises(CaptchaServiceError) as caught:
        batch(**kwargs)
    assert type(caught.value) is error


def test_batch_of_the_allowed_size_is_accepted() -> None:
    uploads, _ = batch(json={"images_base64": ["AAAA"] * LIMITS.max_batch_images})
    assert len(uploads) == LIMITS.max_batch_images
