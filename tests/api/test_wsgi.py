from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response

from qwen_captcha.api.wsgi import DecompressedBody
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import image_bytes

IMAGE = image_bytes(120)


LIMIT = load_settings({}).max_body_bytes


class Body:
    """A stream of a server, which delivers its pieces one after the other and may break."""

    def __init__(self, *pieces: bytes | OSError) -> None:
        self._pieces = iter(pieces)

    def read(self, size: int) -> bytes:
        piece = next(self._pieces, b"")
        if isinstance(piece, OSError):
            raise piece
        assert len(piece) <= size
        return piece


def post(client: FlaskClient, stream: object, length: int | None) -> Response:
    """Send a body as gunicorn hands it over, of an announced or an unknown length."""
    environ = EnvironBuilder(path="/ocr", method="POST").get_environ()
    environ |= {"wsgi.input": stream, "wsgi.input_terminated": True}
    environ.pop("CONTENT_LENGTH", None)
    if length is not None:
        environ["CONTENT_LENGTH"] = str(length)
    return Response.from_app(client.application, environ)


@pytest.mark.parametrize("length", [len(IMAGE), None], ids=["announced", "of unknown length"])
def test_a_body_in_pieces_is_read(client: FlaskClient, length: int | None) -> None:
    assert post(client, Body(IMAGE[:50], IMAGE[50:51], IMAGE[51:]), length).json["text"] == "w120"


def test_a_content_length_over_the_limit_is_rejected_without_reading(client: FlaskClient) -> None:
    reply = post(client, Body(OSError("read")), LIMIT + 1)
    assert (reply.status_code, reply.json["error_type"]) == (413, "body_too_large")


def test_a_body_over_the_limit_is_rejected_once_the_limit_is_read(client: FlaskClient) -> None:
    pieces = [bytes(1024)] * (LIMIT // 1024) + [b"x", OSError("read beyond the limit")]
    reply = post(client, Body(*pieces), None)
    assert (reply.status_code, reply.json["error_type"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("pieces", "length"),
    [
        pytest.param([IMAGE[:50]], len(IMAGE), id="ended"),
        pytest.param([IMAGE[:50], ConnectionResetError()], len(IMAGE), id="reset"),
        pytest.param([OSError("malformed chunk")], None, id="malformed"),
    ],
)
def test_a_body_that_was_cut_is_rejected(
    client: FlaskClient, pieces: list[bytes | OSError], length: int | None
) -> None:
    reply = post(client, Body(*pieces), length)
    assert (reply.status_code, reply.json["error_type"]) == (400, "bad_request")


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress)],
    ids=["gzip", "x-gzip", "deflate"],
)
def test_a_compressed_body_is_unpacked(client: FlaskClient, encoding: str, pack: Any) -> None:
    headers = {"Content-Encoding": encoding}
    assert client.post("/ocr", data=pack(IMAGE), headers=headers).json["text"] == "w120"
    body = pack(json.dumps({"image_base64": base64.b64encode(IMAGE).decode()}).encode())
    reply = client.post("/ocr", data=body, headers=headers, content_type="application/json")
    assert reply.json["text"] == "w120"


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        pytest.param(gzip.compress(bytes(80 << 20)), "gzip", 413, id="bomb"),
        pytest.param(gzip.compress(IMAGE)[:-20], "gzip", 400, id="cut"),
        pytest.param(b"", "gzip", 400, id="empty"),
        pytest.param(IMAGE, "gzip", 400, id="not compressed"),
        pytest.param(IMAGE, "br", 415, id="another encoding"),
    ],
)
def test_a_body_that_cannot_be_unpacked_is_rejected(
    client: FlaskClient, body: bytes, encoding: str, status: int
) -> None:
    reply = client.post("/ocr", data=body, headers={"Content-Encoding": encoding})
    assert reply.status_code == status
    assert reply.json["error"].endswith(".")


def test_no_more_than_the_requested_size_is_unpacked() -> None:
    packed = io.BytesIO(gzip.compress(bytes(1 << 20)))
    assert DecompressedBody(packed, "gzip").read(1001) == bytes(1001)
