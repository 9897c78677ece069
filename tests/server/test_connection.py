from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator

import pytest

from qwen_captcha.server.connection import DeadlineSocket

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"


@pytest.fixture
def pair() -> Iterator[tuple[DeadlineSocket, socket.socket]]:
    """Return the server's end of a connection and the client's."""
    ours, theirs = socket.socketpair()
    with DeadlineSocket(fileno=ours.detach()) as server, theirs as client:
        client.setblocking(False)
        yield server, client


def test_a_head_and_its_body_are_sent_together(pair: tuple[DeadlineSocket, socket.socket]) -> None:
    server, client = pair
    server.sendall(HEAD)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    server.sendall(b"body")
    server.sendall(b"more")
    assert client.recv(1000) == HEAD + b"bodymore"


def test_a_head_without_a_body_is_sent_at_the_end(
    pair: tuple[DeadlineSocket, socket.socket],
) -> None:
    server, client = pair
    server.sendall(HEAD)
    server.flush()
    server.flush()
    assert client.recv(1000) == HEAD


def test_a_file_follows_its_head(pair: tuple[DeadlineSocket, socket.socket]) -> None:
    server, client = pair
    server.sendall(HEAD)
    with tempfile.TemporaryFile() as file:
        file.write(b"file")
        file.seek(0)
        assert server.sendfile(file) == 4
    assert client.recv(1000) == HEAD + b"file"


def test_an_interim_reply_is_sent_at_once(pair: tuple[DeadlineSocket, socket.socket]) -> None:
    server, client = pair
    server.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
