from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.test import EnvironBuilder, run_wsgi_app

from qwen_captcha.api.wsgi import BoundedBody, DecompressedBody, bound_bodies
from tests.support.fake_backend import image_bytes

IMAGE = image_bytes(120)


class Stalling:
    """A stream that delivers few bytes at a time and may break."""

    def __init__(self, pieces: list[bytes | OSError]) -> None:
        self._pieces = iter(pieces)

    def read(self, size: int) -> bytes:
        piece = next(self._pieces, b"")
        if isinstance(piece, OSError):
            raise piece
        assert len(piece) <= size
        return piece


@pytest.mark.parametrize("announced", [10, None], ids=["announced", "of unknown length"])
def test_a_body_of_just_the_limit_is_read(announced: int | None) -> None:
    assert BoundedBody(io.BytesIO(b"0123456789"), 10, announced).read() == b"0123456789"


def test_a_body_over_the_limit_is_refused() -> None:
    with pytest.raises(RequestEntityTooLarge):
        BoundedBody(io.BytesIO(b"0123456789a"), 10, None).read()


def test_a_body_over_the_limit_is_refused_when_it_gets_there() -> None:
    body = BoundedBody(io.BytesIO(b"0123456789a"), 10, None)
    assert [body.read(4), body.read(4)] == [b"0123", b"4567"]
    with pytest.raises(RequestEntityTooLarge):
        body.read(4)


def test_an_announced_body_over_the_limit_is_refused_unread() -> None:
    stream = io.BytesIO(b"0123456789a")
    with pytest.raises(RequestEntityTooLarge):
        BoundedBody(stream, 10, 11).read()
    assert stream.tell() == 0


def test_pieces_add_up() -> None:
    body = BoundedBody(Stalling([b"01", b"2", b"345"]), 10, 6)
    assert body.readable()
    assert [body.read(4), body.read()] == [b"01", b"2345"]


@pytest.mark.parametrize(
    "pieces",
    [[b"012"], [b"012", ConnectionResetError()], [OSError("malformed chunk")]],
    ids=["ended", "reset", "malformed"],
)
def test_a_body_that_was_cut_is_refused(pieces: list[bytes | OSError]) -> None:
    with pytest.raises(ClientDisconnected):
        BoundedBody(Stalling(pieces), 10, 6).read()


def test_an_empty_body_is_read() -> None:
    assert BoundedBody(io.BytesIO(), 10, 0).read() == b""
    assert BoundedBody(io.BytesIO(), 10, None).read() == b""


@pytest.mark.parametrize("length", ["5", "", "none"])
def test_an_application_gets_the_bounded_body(length: str) -> None:
    seen = []

    def application(environ, start_response):
        seen.append(environ["wsgi.input"].read(5))
        start_response("204 No Content", [])
        return []

    environ = EnvironBuilder(method="POST", data=b"image").get_environ()
    environ["CONTENT_LENGTH"] = length
    _, status, _ = run_wsgi_app(bound_bodies(application, 10), environ)
    assert (status, seen) == ("204 No Content", [b"image"])


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
def test_a_body_that_cannot_be_unpacked_is_refused(
    client: FlaskClient, body: bytes, encoding: str, status: int
) -> None:
    reply = client.post("/ocr", data=body, headers={"Content-Encoding": encoding})
    assert reply.status_code == status
    assert reply.json["error"].endswith(".")


def test_no_more_is_unpacked_than_a_body_may_have() -> None:
    packed = io.BytesIO(gzip.compress(bytes(64 << 20)))
    body = BoundedBody(DecompressedBody(packed), 1000, None)
    with pytest.raises(RequestEntityTooLarge):
        body.read()
    assert DecompressedBody(io.BytesIO(gzip.compress(bytes(1 << 20)))).read(1001) == bytes(1001)
