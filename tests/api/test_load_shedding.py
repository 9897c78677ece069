from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from qwen_captcha.api.load_shedding import LoadShedding, headers_of_raw_image
from qwen_captcha.app import create_app
from qwen_captcha.server.error_replies import error_reply
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import MAX_WAIT_S, FakeBackend, image_bytes
from tests.support.live_server import Reply, parse_reply

IMAGE = image_bytes()
TYPE = b"Content-Type: image/png\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(IMAGE)
# Headers whose values differ from request to request.
OWN_HEADERS = {"x-request-id", "server-timing"}


@pytest.fixture
def app() -> Iterator[Flask]:
    """Return a service whose only slot is taken."""
    app = create_app(load_settings({"MAX_QUEUE_SIZE": "1", "MAX_BATCH_IMAGES": "1"}), FakeBackend())
    service = app.extensions["captcha_service"]
    assert service.wait_until_loaded(MAX_WAIT_S)
    with service.queue.reserve(1, service.monotonic() + MAX_WAIT_S):
        yield app
    service.begin_drain()


def post(headers: bytes = TYPE + LENGTH, line: bytes = b"POST /ocr HTTP/1.1\r\n") -> bytes:
    return line + b"Host: captcha\r\n" + headers + b"\r\n" + IMAGE


def shed(app: Flask, request: bytes) -> Reply:
    """Return the reply to a request that is rejected without a thread."""
    shedding: LoadShedding = app.extensions["load_shedding"]
    error = shedding.rejection()
    assert error is not None
    headers = shedding.reject(request, error)
    assert headers is not None
    reply, rest = parse_reply(error_reply(503, error.error_type, error.message, headers))
    assert rest == b""
    return reply


def test_a_raw_image_is_rejected_as_flask_rejects_it(app: Flask, client: FlaskClient) -> None:
    reply = shed(app, post())
    by_flask = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert (reply.status, reply.json["error_type"]) == (503, "queue_full")
    assert (reply.status, reply.body) == (by_flask.status_code, by_flask.data)
    expected = {name.lower(): value for name, value in by_flask.headers.items()}
    assert reply.headers.keys() == expected.keys()
    for name in expected.keys() - OWN_HEADERS:
        assert reply.headers[name] == expected[name]


def test_a_request_keeps_its_id(app: Flask) -> None:
    reply = shed(app, post(TYPE + LENGTH + b"X-Request-Id: Mine-7\r\n"))
    assert reply.headers["x-request-id"] == "Mine-7"


def test_rejections_are_counted(app: Flask, client: FlaskClient) -> None:
    shed(app, post())
    client.post("/ocr", data=IMAGE)
    lines = client.get("/metrics").text.splitlines()
    assert 'qwen_captcha_requests_total{route="/ocr",status="503"} 2.0' in lines
    assert 'qwen_captcha_rejections_total{reason="queue_full"} 2.0' in lines


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(),
        post(line=b"POST /ocr/?kind=math&prompt=%E4%BD%A0 HTTP/1.1\r\n"),
        post(b"content-type: Application/Octet-Stream\r\ncontent-length:%d\r\n" % len(IMAGE)),
        post(TYPE + LENGTH + b"Connection: Keep-Alive\r\n"),
    ],
    ids=["plain", "options and a slash", "lower case", "keep-alive"],
)
def test_a_raw_image_needs_no_thread(request_bytes: bytes) -> None:
    headers = headers_of_raw_image(request_bytes)
    assert headers is not None
    assert headers["host"] == "captcha"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        post()[:30],
        post()[:-1],
        post() + b"G",
        post() + post(),
        post(LENGTH),
        post(TYPE),
        post(TYPE + LENGTH + LENGTH),
        post(TYPE + b"Content-Length: +%d\r\n" % len(IMAGE)),
        post(TYPE + b"Content-Length : %d\r\n" % len(IMAGE)),
        post(TYPE + LENGTH + b" folded\r\n"),
        post(TYPE + LENGTH + b"Transfer-Encoding: chunked\r\n"),
        post(TYPE + LENGTH + b"Expect: 100-continue\r\n"),
        post(TYPE + LENGTH + b"Origin: https://example.org\r\n"),
        post(TYPE + LENGTH + b"Connection: close\r\n"),
        post(b"Content-Type: application/json\r\n" + LENGTH),
        post(line=b"POST /batch-ocr HTTP/1.1\r\n"),
        post(line=b"PUT /ocr HTTP/1.1\r\n"),
        post(line=b"POST /ocr HTTP/1.0\r\n"),
        post(line=b"POST http://captcha/ocr HTTP/1.1\r\n"),
    ],
    ids=[
        *("nothing", "half a head", "half a body", "a byte more", "two requests", "no type"),
        *("no length", "two lengths", "signed length", "space in a name", "folded", "chunked"),
        *("expect", "from a page", "closing", "json", "batch", "put", "HTTP/1.0", "absolute"),
    ],
)
def test_any_other_request_needs_a_thread(request_bytes: bytes) -> None:
    assert headers_of_raw_image(request_bytes) is None


def test_a_dialect_is_rejected_in_the_dialect(client: FlaskClient) -> None:
    reply = client.post("/ocr", json={"image": base64.b64encode(IMAGE).decode()})
    assert (reply.status_code, list(reply.json)) == (503, ["detail"])


def test_a_stopping_service_has_that_reason(app: Flask, client: FlaskClient) -> None:
    app.extensions["captcha_service"].begin_drain()
    assert app.extensions["load_shedding"].rejection() is None
    reply = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert (reply.status_code, reply.json["error_type"]) == (503, "draining")
