"""Request bodies, bounded while they are read.

Responsible for: the limit on the whole body, also on one of unknown length, and noticing a body
that ends too early. Invariant: an application never sees more than the limit nor a body that was
cut, whatever the client announced.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Large reads: gunicorn copies what it has buffered at every one of them.
CHUNK_BYTES = 1024 * 1024


class BodyStream(Protocol):
    """The server's end of a request body."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, none at the end of the body."""


class BoundedBody(io.RawIOBase):
    """A request body that raises where it is too large or ends too early.

    Args:
        stream: The server's stream, which ends where the body ends.
        max_bytes: Most bytes that the body may have.
        announced_bytes: The `Content-Length`; None where the length is unknown.
    """

    def __init__(self, stream: BodyStream, max_bytes: int, announced_bytes: int | None) -> None:
        self._stream = stream
        self._max_bytes = max_bytes
        self._announced_bytes = announced_bytes
        self._count_bytes = 0

    def readable(self) -> bool:
        """Return that the body can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read the next bytes into a buffer and return how many.

        Raises:
            RequestEntityTooLarge: The body is over the limit.
            ClientDisconnected: The body is malformed, or shorter than it was announced.
        """
        view = memoryview(buffer).cast("B")
        data = self._next(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Read the rest of the body; raises what `readinto` raises."""
        return b"".join(iter(lambda: self._next(CHUNK_BYTES), b""))

    def _next(self, size: int) -> bytes:
        """Return at most `size` more bytes, none at the end."""
        if (self._announced_bytes or 0) > self._max_bytes:
            raise RequestEntityTooLarge
        # One byte more than allowed tells a body over the limit from one that just fits.
        size = min(size, self._max_bytes - self._count_bytes + 1)
        try:
            data = self._stream.read(size)
        except OSError as error:
            raise ClientDisconnected("The request body is malformed or was cut.") from error
        self._count_bytes += len(data)
        if self._count_bytes > self._max_bytes:
            raise RequestEntityTooLarge
        if not data and self._count_bytes < (self._announced_bytes or 0):
            raise ClientDisconnected("The request body is shorter than its Content-Length.")
        return data


def bound_bodies(application: WSGIApplication, max_body_bytes: int) -> WSGIApplication:
    """Return a WSGI application whose request bodies are bounded."""

    def bounded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        announced = str(environ.get("CONTENT_LENGTH") or "")
        announced_bytes = int(announced) if announced.isdecimal() else None
        environ["wsgi.input"] = BoundedBody(environ["wsgi.input"], max_body_bytes, announced_bytes)
        return application(environ, start_response)

    return bounded
