"""Clients that send slowly, or stop in the middle: others are served as before."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qwen_captcha.server import connection
from qwen_captcha.server.connection import DeadlineSocket, RequestTimeout
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    MAX_WAIT_S,
    Server,
    gunicorn_command,
    parse_reply,
    receive_all,
    running,
)

STALLED = 200
IMAGE = image_bytes(120)
HEAD = b"POST /ocr HTTP/1.1\r\nHost: captcha\r\nContent-Length: %d\r\n" % len(IMAGE)
REQUEST = HEAD + b"Connection: close\r\n\r\n" + IMAGE
# As many as there are, and a few more: a client that waits for all of these waits for a timeout.


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(gunicorn_command("tests.support.fake_backend:create_quick_app()")) as server:
        server.wait_until_ready()
        yield server


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S)


@pytest.mark.live
@pytest.mark.parametrize(
    "length", [0, 30, len(REQUEST) - 9], ids=["silent", "mid-head", "mid-body"]
)
def test_others_are_served_while_many_stall(server: Server, length: int) -> None:
    with ExitStack() as stack:
        stalled = [stack.enter_context(connect(server)) for _ in range(STALLED)]
        for connection in stalled:
            connection.sendall(REQUEST[:length])
        for _ in range(10):
            with connect(server) as connection:
                connection.sendall(REQUEST)
                reply, _ = parse_reply(receive_all(connection))
            assert (reply.status, reply.json["text"]) == (200, "w120")
        # They are still connected, and one that goes on is answered: nothing waited for their end.
        stalled[-1].sendall(REQUEST[length:])
        assert stalled[-1].recv(12) == b"HTTP/1.1 200"


@pytest.fixture
def ends() -> Iterator[tuple[DeadlineSocket, socket.socket]]:
    """Return both ends of a connection: the server's, with deadlines, and the client's."""
    ours, theirs = socket.socketpair()
    with DeadlineSocket(fileno=ours.detach()) as server_end, theirs:
        server_end.expect_request()
        yield server_end, theirs


def test_a_client_that_stops_sending_times_out(
    ends: tuple[DeadlineSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 0.01)
    ours, theirs = ends
    theirs.sendall(b"GET")
    assert ours.recv(100) == b"GET"
    with pytest.raises(RequestTimeout):
        ours.recv(100)
    assert ours.gettimeout() is None


def test_a_client_that_sends_slowly_times_out(
    ends: tuple[DeadlineSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = ends
    now = time.monotonic()
    monkeypatch.setattr(connection.time, "monotonic", lambda: now + connection.REQUEST_S)
    with pytest.raises(RequestTimeout):
        ours.recv(100)
    ours.expect_request()
    theirs.sendall(b"x")
    assert ours.recv(100) == b"x"


def test_a_timeout_that_is_set_has_its_own_error(
    ends: tuple[DeadlineSocket, socket.socket],
) -> None:
    ours, _ = ends
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.recv(100)


@pytest.mark.live
def test_a_slow_client_gets_408() -> None:
    with running(
        gunicorn_command("tests.support.fake_backend:create_short_deadline_app()")
    ) as server:
        server.wait_until_ready()
        for sent, status in ((HEAD[:30], 408), (HEAD + b"\r\n" + IMAGE[:9], 400)):
            with connect(server) as connection:
                connection.sendall(sent)
                reply, rest = parse_reply(receive_all(connection))
            assert rest == b""
            assert (reply.status, reply.json["error_type"]) == (status, "bad_request")
        assert not [line for line in server.lines if "Traceback" in line or "ERROR" in line]


def read_wide(server: Server, width: int) -> bytes:
    """Return the reply to an image of a width, over a connection of its own."""
    image = image_bytes(width)
    head = b"POST /ocr HTTP/1.1\r\nHost: captcha\r\nConnection: close\r\n"
    with connect(server) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(image) + image)
        return receive_all(connection)


def metrics_of(server: Server) -> str:
    with connect(server) as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return receive_all(connection).decode()


@pytest.mark.live
def test_the_work_of_clients_that_hang_up_in_the_queue_is_dropped_and_counted(
    tmp_path: Path,
) -> None:
    reading, go_on = tmp_path / "reading", tmp_path / "go-on"
    os.mkfifo(reading)
    os.mkfifo(go_on)
    command = gunicorn_command(f"tests.support.fake_backend:create_blocking_app('{tmp_path}')")
    with running(command, OCR_TIMEOUT_S="60", CACHE_SIZE="0") as server, ExitStack() as stack:
        server.wait_until_ready()
        replies: list[bytes] = []
        threads = [
            threading.Thread(target=lambda width=width: replies.append(read_wide(server, width)))
            for width in (500, 130)
        ]
        threads[0].start()
        reading.open().close()  # The model is busy from here on.
        threads[1].start()
        gone = [stack.enter_context(connect(server)) for _ in range(5)]
        for connection in gone:
            connection.sendall(REQUEST)
            connection.close()
        deadline = time.monotonic() + MAX_WAIT_S
        counted = 'qwen_captcha_rejections_total{reason="client_disconnected"} 5.0'
        while counted not in metrics_of(server):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        go_on.open("w").close()
        for thread in threads:
            thread.join(MAX_WAIT_S)
        # The one whose caller stayed is read after the busy one; those of the others never are.
        texts = sorted(parse_reply(reply)[0].json["text"] for reply in replies)
        assert texts == ["w130", "w500"]
        [sizes] = re.findall(
            r"^qwen_captcha_batch_size_sum (\S+)", metrics_of(server), re.MULTILINE
        )
        assert float(sizes) == 2
