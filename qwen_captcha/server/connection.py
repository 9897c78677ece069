"""A connection to a client, seen from the server: how long it may take, and what it gets.

Responsible for: a socket that gives up on a client which sends nothing for a while, or too little
in all, and that sends replies whole; reading on after the last reply, for a while. Invariant:
reading one request ends after `REQUEST_S` and lingering after `LINGER_S`, whatever the client does,
so that a thread is never held for longer.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from gunicorn.http.errors import ParseException

# As `deploy/nginx.conf` has it, client_header_timeout and client_body_timeout.
IDLE_S = 15.0
# The largest body, 64 MiB, at 6 Mbit/s.
REQUEST_S = 90.0
# A client on a local network sends the rest of a rejected upload well within these.
LINGER_BYTES = 256 * 1024 * 1024
LINGER_S = 10.0
# A client that neither sends nor closes for so long has read what it wants to read.
LINGER_IDLE_S = 2.0
CHUNK_BYTES = 64 * 1024
# How the head of a reply begins; that of an interim one, as 100, is awaited by its client.
FINAL_STATUS = tuple(
    f"HTTP/1.{version} {digit}".encode() for version in (0, 1) for digit in (2, 3, 4, 5)
)


class RequestTimeout(ParseException):  # type: ignore[misc]
    """A client did not send its request in time."""


class DeadlineSocket:
    """A socket whose reads end and whose replies are sent whole; else the socket that it wraps.

    gunicorn sends the head of a reply before its body. A process that is killed in between leaves
    half a reply, which a proxy can neither complete nor ask another instance for.

    Args:
        wrapped: The connection to a client.
        when_waiting: Called before a read has to wait for the client.
    """

    def __init__(self, wrapped: socket.socket, when_waiting: Callable[[], None]) -> None:
        self._wrapped = wrapped
        self._when_waiting = when_waiting
        self._deadline = 0.0
        self._head = b""
        self.expect_request()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def expect_request(self) -> None:
        """Start the clock of the next request."""
        self._deadline = time.monotonic() + REQUEST_S

    def sendall(self, data: bytes) -> None:
        """Send some bytes; the head of a reply waits for what follows it, or for `flush`."""
        if data.endswith(b"\r\n\r\n") and data.startswith(FINAL_STATUS):
            self._head = data
            return
        whole, self._head = self._head + data, b""
        self._wrapped.sendall(whole)

    def sendfile(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> int:
        """Send a file behind the head that waits for it; returns how many bytes of it."""
        self.flush()
        return self._wrapped.sendfile(file, offset, count)

    def flush(self) -> None:
        """Send the head of a reply that has no body."""
        if self._head:
            self.sendall(b"")

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return at most `size` bytes, none where the client has closed.

        Raises:
            RequestTimeout: Nothing came in time.
        """
        given = self._wrapped.gettimeout()
        # A caller that set a timeout wants its own error: the end of a rejected upload is read so.
        if given is not None:
            return self._wrapped.recv(size, flags)
        left_s = min(IDLE_S, self._deadline - time.monotonic())
        if left_s > 0:
            with suppress(BlockingIOError):
                return self._wrapped.recv(size, flags | socket.MSG_DONTWAIT)
        self._when_waiting()
        self._wrapped.settimeout(max(left_s, 0.001))
        try:
            return self._wrapped.recv(size, flags)
        except TimeoutError as error:
            raise RequestTimeout from error
        finally:
            self._wrapped.settimeout(None)


def linger(connection: socket.socket) -> None:
    """Say that the reply is complete, and discard what the client still sends, for a while.

    A socket that is closed with unread data resets the connection, and the reply is lost with it.
    """
    deadline = time.monotonic() + LINGER_S
    discarded_bytes = 0
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while discarded_bytes < LINGER_BYTES and (left_s := deadline - time.monotonic()) > 0:
            connection.settimeout(min(left_s, LINGER_IDLE_S))
            data = connection.recv(CHUNK_BYTES)
            if not data:
                break
            discarded_bytes += len(data)
    # gunicorn lingers again while it closes, in its main loop: now there is nothing to wait for.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
