"""Requests that are refused before they reach the application, as it would refuse them."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_captcha.server.load_shedding import plain_request
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    MAX_WAIT_S,
    Reply,
    Server,
    assert_error,
    gunicorn_command,
    parse_reply,
    post,
    running,
    send_and_close,
)

IMAGE = image_bytes()
BASE64 = base64.b64encode(IMAGE)
FILE = (
    b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a.png"\r\n'
    b"Content-Type: image/png\r\n\r\n" + IMAGE + b"\r\n--b--\r\n"
)
MULTIPART = b"Content-Type: multipart/form-data; boundary=b"
JSON = b"Content-Type: application/json"
# What the server and the clock put into a reply.
OWN_HEADERS = {"date", "server", "x-request-id", "server-timing"}


@pytest.mark.parametrize(
    "received",
    [
        post(IMAGE),
        post(IMAGE, b"Content-Type: image/png", b"X-Request-Id: 7", b"Connection: close"),
        post(b'{"image_base64": "%s"}' % BASE64, JSON),
        post(FILE % b"image", MULTIPART),
    ],
    ids=["raw", "headers", "JSON", "multipart"],
)
def test_whole_requests_in_this_service_s_forms_are_plain(received: bytes) -> None:
    assert plain_request(received) is not None


@pytest.mark.parametrize(
    "received",
    [
        b"",
        post(IMAGE)[:-1],
        post(IMAGE) + b"P",
        post(IMAGE, path=b"/batch-ocr"),
        post(IMAGE, path=b"/ocr?kind=digits"),
        post(IMAGE).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
        post(IMAGE, b"Origin: http://elsewhere"),
        post(IMAGE, b"Expect: 100-continue"),
        post(IMAGE, b"Content-Encoding: gzip"),
        post(IMAGE, b"Connection: upgrade"),
        post(IMAGE, b"content-length: %d" % len(IMAGE)),
        post(IMAGE, b"Content-Length: %d" % len(IMAGE)),
        post(IMAGE, b"no colon"),
        post(IMAGE).replace(b"Content-Length: ", b"Content-Length: +"),
        post(b'{"image": "%s"}' % BASE64, JSON),
        post(b'{"image": {}, "image_base64": "%s"}' % BASE64, JSON),
        post(b"image=" + BASE64, b"Content-Type: application/x-www-form-urlencoded"),
        post(FILE % b"file", MULTIPART),
        post(b"this is a text"),
    ],
)
def test_whatever_is_unusual_is_left_to_the_application(received: bytes) -> None:
    assert plain_request(received) is None


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Server]:
    """A server whose only slot is taken by an image of width 500, until the pipe is opened."""
    for name in ("reading", "go-on"):
        os.mkfifo(tmp_path / name)
    application = gunicorn_command(f"tests.support.fake_backend:create_gated_app('{tmp_path}')")
    with running(application, MAX_QUEUE_SIZE="1", MAX_BATCH_IMAGES="1") as server:
        server.wait_until_ready()
        accepted = threading.Thread(
            target=send_and_close, args=(server.port, [post(image_bytes(500))])
        )
        accepted.start()
        (tmp_path / "reading").open().close()
        try:
            yield server
        finally:
            (tmp_path / "go-on").open("w").close()
            accepted.join(MAX_WAIT_S)


def exchange(connection: socket.socket, request: bytes) -> Reply:
    """Send a request and return its reply, the connection staying open."""
    connection.sendall(request)
    data = b""
    while True:
        data += connection.recv(65536)
        head, end, body = data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length):
            return parse_reply(data)[0]


@pytest.mark.live
def test_a_quick_refusal_is_what_the_application_replies(full: Server) -> None:
    forms = [
        (post(IMAGE), post(IMAGE, path=b"//ocr")),
        (post(IMAGE, b"Connection: close"), post(IMAGE, b"Connection: close", path=b"//ocr")),
    ]
    for quick, slow in forms:
        with socket.create_connection(("127.0.0.1", full.port), MAX_WAIT_S) as connection:
            ours = exchange(connection, quick)
        [theirs] = send_and_close(full.port, [slow])
        assert_error(ours, 503, "queue_full")
        assert (ours.status, ours.body) == (theirs.status, theirs.body)
        kept = {name: value for name, value in ours.headers.items() if name not in OWN_HEADERS}
        assert kept == {
            name: value for name, value in theirs.headers.items() if name not in OWN_HEADERS
        }
        assert {"x-request-id", "server-timing"} <= ours.headers.keys()
    full.wait_for_line(r"Refused \d+ requests? at once: The queue is full")


@pytest.mark.live
def test_a_refused_connection_goes_on_and_is_counted(full: Server) -> None:
    with socket.create_connection(("127.0.0.1", full.port), MAX_WAIT_S) as connection:
        named = exchange(connection, post(IMAGE, b"X-Request-Id: Mine-7"))
        assert (named.status, named.headers["x-request-id"]) == (503, "Mine-7")
        dialect = exchange(connection, post(b'{"image": "%s"}' % BASE64, JSON))
        assert (dialect.status, list(json.loads(dialect.body))) == (503, ["detail"])
        assert exchange(connection, post(IMAGE)).status == 503
        metrics = exchange(connection, b"GET /metrics HTTP/1.1\r\nHost: captcha\r\n\r\n")
    lines = metrics.body.decode().splitlines()
    assert 'qwen_captcha_requests_total{route="/ocr",status="503"} 3.0' in lines
    assert 'qwen_captcha_refusals_total{reason="queue_full"} 3.0' in lines


@pytest.mark.live
def test_pipelined_requests_and_halves_are_refused_in_order(full: Server) -> None:
    twice = post(IMAGE) + post(IMAGE)
    replies = send_and_close(full.port, [twice[:30], twice[30:]])
    assert [reply.status for reply in replies] == [503, 503]
