"""The WSGI environment of a request: bodies with a limit, paths, and whether the client is there.

Invariants: an application never sees more than the limit of a body nor a body that was cut,
whatever the client announced. Looking at a connection takes nothing off it and never waits.

A client that closes only its sending half (`nc -N`) cannot be told from one that has gone.
"""

from __future__ import annotations

import io
import re
import select
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from qwen_captcha.scheduling.pending import never_disconnected

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Large reads: gunicorn copies what it has buffered at every one of them.
CHUNK_BYTES = 1024 * 1024
HUNG_UP: int = getattr(select, "POLLRDHUP", 0)


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


def single_slashes(application: WSGIApplication) -> WSGIApplication:
    """Return a WSGI application for which `//ocr` is `/ocr`: a base URL may end with a slash.

    Flask would redirect, which not every client follows with its body, and with a page of HTML.
    """

    def merged(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["PATH_INFO"] = re.sub("/{2,}", "/", environ.get("PATH_INFO", ""))
        return application(environ, start_response)

    return merged


def disconnect_check(environ: Mapping[str, object]) -> Callable[[], bool]:
    """Return a function that tells whether the client of a request has disconnected.

    Args:
        environ: The WSGI environment of the request.
    """
    connection = environ.get("gunicorn.socket")
    if connection is None or not HUNG_UP:
        return never_disconnected

    def is_disconnected() -> bool:
        poll = select.poll()
        try:
            poll.register(connection, HUNG_UP)  # type: ignore[arg-type]
        except ValueError:  # It is closed already.
            return True
        return bool(poll.poll(0))

    return is_disconnected
