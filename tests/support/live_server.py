"""A server in a process of its own, on a free loopback port, and raw HTTP to talk to it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_captcha.server.run import GUNICORN_CONFIGURATION

PROJECT = Path(__file__).resolve().parents[2]
ENTRY_SCRIPT = (sys.executable, str(PROJECT / "qwen_captcha_service.py"))
# Longest wait for anything; only a failing test waits so long.
MAX_WAIT_S = 60.0


def gunicorn_command(application: str) -> tuple[str, ...]:
    """Return the command that serves an application as the service is served."""
    configuration = str(GUNICORN_CONFIGURATION)
    return (sys.executable, "-m", "gunicorn", "--config", configuration, application)


class Server:
    """A running server and what it has logged so far."""

    def __init__(self, command: tuple[str, ...], variables: dict[str, str]) -> None:
        environment = {"HOST": "127.0.0.1", "PORT": "0", "PYTHONPATH": str(PROJECT)}
        self.process = subprocess.Popen(
            command,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "LOG_FORMAT": "text",
                **environment,
                **variables,
            },
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.port = 0
        self.lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._changed:
                    self.lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Wait until the server has logged a line in which a pattern is found."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, "\n".join(self.lines))

        with self._changed:
            self._changed.wait_for(lambda: found() or self._ended, MAX_WAIT_S)
            match = found()
        assert match is not None, "not in the log:\n" + "\n".join(self.lines)
        return match

    def wait_until_ready(self) -> None:
        """Wait until the server listens and its model answers."""
        self.port = int(self.wait_for_line(r"Listening on http://\S+:(\d+)")[1])
        self.wait_for_line("Ready: reading one captcha")

    def wait_for_end(self) -> int:
        """Return the exit status; the log is complete then."""
        status = self.process.wait(MAX_WAIT_S)
        with self._changed:
            assert self._changed.wait_for(lambda: self._ended, MAX_WAIT_S)
        return status


@contextmanager
def running(command: tuple[str, ...], **variables: str) -> Iterator[Server]:
    """Start a server, and stop it and all of its processes at the end."""
    server = Server(command, variables)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(MAX_WAIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(server.process.pid, signal.SIGKILL)
                server.process.wait()


@dataclass(frozen=True)
class Reply:
    """One HTTP reply."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The JSON object that the body must be."""
        assert self.headers["content-type"] == "application/json"
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


def parse_reply(data: bytes) -> tuple[Reply, bytes]:
    """Return the first reply in what a server sent, and the rest."""
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    length = int(headers.get("content-length", 0))
    assert len(rest) >= length, "the reply was cut"
    return Reply(int(status_line.split()[1]), headers, rest[:length]), rest[length:]


def post(body: bytes, *headers: bytes, path: bytes = b"/ocr") -> bytes:
    """Return a request with a body of known length."""
    length = b"Content-Length: %d" % len(body)
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: captcha", length, *headers]
    return b"\r\n".join([*lines, b"", body])


def assert_error(reply: Reply, status: int, error_type: str) -> None:
    """Check that a reply is the one error object, with nothing else in it."""
    body = reply.json
    assert list(body) == ["success", "text", "confidence", "error", "error_type"]
    assert (body["success"], body["text"], body["confidence"]) == (False, "", 0.0)
    assert (reply.status, body["error_type"]) == (status, error_type)
    assert body["error"].endswith(".")


def receive_all(connection: socket.socket) -> bytes:
    """Return what a server sends until it closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def send_and_close(port: int, pieces: Iterable[bytes]) -> list[Reply]:
    """Send everything, shut down the sending side, and only then read; returns all replies."""
    return _exchange(port, pieces, half_close=True)


def send_and_wait(port: int, pieces: Iterable[bytes]) -> list[Reply]:
    """Send requests, the last of which ends the connection, then read; returns all replies.

    For nginx, which takes a client that closes its half of the connection for one that has left.
    """
    return _exchange(port, pieces, half_close=False)


def _exchange(port: int, pieces: Iterable[bytes], *, half_close: bool) -> list[Reply]:
    with socket.create_connection(("127.0.0.1", port), MAX_WAIT_S) as connection:
        for piece in pieces:
            connection.sendall(piece)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        data = receive_all(connection)
    replies = []
    while data:
        reply, data = parse_reply(data)
        replies.append(reply)
    return replies
