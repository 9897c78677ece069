"""A connection to a client: limits on the time that it takes from a thread, and whole replies."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gunicorn.http.errors import ParseException

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Equals client_header_timeout and client_body_timeout in `deploy/nginx.conf`.
IDLE_S = 15.0
# The largest body, 64 MiB, at 6 Mbit/s.
REQUEST_S = 90.0
# A client on a local network sends the rest of a rejected upload well within these.
LINGER_BYTES = 256 * 1024 * 1024
LINGER_S = 10.0
# A client that neither sends nor closes for so long has had time to read the reply.
LINGER_IDLE_S = 2.0
CHUNK_BYTES = 64 * 1024
# First bytes of a final reply; the client waits for an interim one, such as 100.
FINAL_STATUS = tuple(
    f"HTTP/1.{version} {digit}".encode() for version in (0, 1) for digit in (2, 3, 4, 5)
)


class RequestTimeout(ParseException):  # type: ignore[misc]
    """A client did not send its request in time."""


class DeadlineSocket(socket.socket):
    """A socket whose reads end `IDLE_S` after the last byte, `REQUEST_S` after `expect_request`.

    It sends replies whole. gunicorn sends the head before the body, and a process that is killed in
    between leaves half a reply, for which a proxy can ask no other instance.
    """

    _deadline = 0.0
    _head = b""

    def expect_request(self) -> None:
        """Set the deadline of the next request."""
        self._deadline = time.monotonic() + REQUEST_S

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Send some bytes; the head of a reply waits for its body, or for `flush`."""
        given = bytes(data)
        if given.startswith(FINAL_STATUS) and given.endswith(b"\r\n\r\n"):
            self._head = given
            return
        whole, self._head = self._head + given, b""
        super().sendall(whole, flags)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a file after the head that waits for it; return the number of its bytes."""
        self.flush()
        return super().sendfile(file, offset, count)

    def flush(self) -> None:
        """Send the head of a reply without a body."""
        if self._head:
            self.sendall(b"")

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return at most `size` bytes, none where the client has closed.

        Raises:
            RequestTimeout: Nothing came in time.
        """
        # A caller that has set a timeout expects TimeoutError: `linger`, for example.
        if self.gettimeout() is not None:
            return super().recv(size, flags)
        left_s = min(IDLE_S, self._deadline - time.monotonic())
        if left_s > 0:
            with suppress(BlockingIOError):
                return super().recv(size, flags | socket.MSG_DONTWAIT)
        self.settimeout(max(left_s, 0.001))
        try:
            return super().recv(size, flags)
        except TimeoutError as error:
            raise RequestTimeout from error
        finally:
            self.settimeout(None)


def linger(connection: socket.socket) -> None:
    """End the reply, and discard what the client still sends, for a while.

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
    # gunicorn lingers again when it closes the socket, in its main loop. Without a receiving half
    # it does not wait there.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
