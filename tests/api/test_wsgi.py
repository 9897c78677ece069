from __future__ import annotations

import io

import pytest
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.test import EnvironBuilder, run_wsgi_app

from qwen_captcha.api.wsgi import BoundedBody, bound_bodies


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
