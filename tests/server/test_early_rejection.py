"""Rejections by the loop that accepts connections, over real connections."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    MAX_WAIT_S,
    Reply,
    gunicorn_command,
    parse_reply,
    post,
    running,
    send_and_close,
)

IMAGE = post(image_bytes(120), b"Content-Type: image/png")
HEALTH = b"GET /health HTTP/1.1\r\nHost: captcha\r\n\r\n"


def ask(connection: socket.socket, request: bytes, replies: int = 1) -> list[Reply]:
    """Send a request, or several, and return the replies, which nothing follows."""
    connection.sendall(request)
    data, found = b"", []
    while len(found) < replies:
        try:
            reply, data = parse_reply(data)
        except (AssertionError, IndexError, ValueError):  # It has not arrived as a whole.
            received = connection.recv(65536)
            assert received, "the connection was closed"
            data += received
        else:
            found.append(reply)
    assert data == b""
    return found


@pytest.mark.live
def test_a_connection_serves_rejections_and_other_requests_in_turn(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "reading")
    os.mkfifo(tmp_path / "go-on")
    command = gunicorn_command(f"tests.support.fake_backend:create_blocking_app('{tmp_path}')")
    settings = {"MAX_QUEUE_SIZE": "1", "MAX_BATCH_IMAGES": "1", "CACHE_SIZE": "0"}
    with running(command, OCR_TIMEOUT_S="60", **settings) as server:
        server.wait_until_ready()
        answers: list[Reply] = []
        thread = threading.Thread(
            target=lambda: answers.extend(send_and_close(server.port, [post(image_bytes(500))]))
        )
        thread.start()
        (tmp_path / "reading").open().close()  # The only slot is taken from here on.
        with socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S) as connection:
            for request, statuses in [
                (IMAGE, [503]),
                (HEALTH, [200]),
                (IMAGE, [503]),
                (IMAGE + IMAGE, [503, 503]),
                (IMAGE + HEALTH, [503, 200]),
            ]:
                replies = ask(connection, request, len(statuses))
                assert [reply.status for reply in replies] == statuses
            connection.sendall(IMAGE[:-10])  # A thread waits for the rest.
            [reply] = ask(connection, IMAGE[-10:])
            assert reply.json["error_type"] == "queue_full"
            (tmp_path / "go-on").open("w").close()
            thread.join(MAX_WAIT_S)
            [reply] = ask(connection, IMAGE)
            assert (reply.status, reply.json["text"]) == (200, "w120")
        assert [answer.json["text"] for answer in answers] == ["w500"]
        assert not [line for line in server.lines if "Traceback" in line or "ERROR" in line]
