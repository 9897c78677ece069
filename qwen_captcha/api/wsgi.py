"""The WSGI environment of a request: body limits, paths, and whether the client is connected.

An application never receives more than the limit of a body nor a truncated one, whatever length the
client announced. The check of a connection consumes nothing and never waits.

A client that closes only its sending half (`nc -N`) looks the same as one that has disconnected.
"""

from __future__ import annotations

import io
import re
import select
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from qwen_captcha.scheduling.pending import never_disconnected

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Large reads: gunicorn copies what it has buffered at every one of them.
CHUNK_BYTES = 1024 * 1024
# Tells zlib to take the header of gzip or its own, whichever there is.
_EITHER_HEADER = 32
_COMPRESSIONS = ("gzip", "x-gzip", "deflate")
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


class DecompressedBody:
    """The body that a gzip or zlib body unpacks to, which raises where it is no such body.

    Args:
        stream: The packed body.
    """

    def __init__(self, stream: BodyStream) -> None:
        self._stream = stream
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | _EITHER_HEADER)

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, which is positive; none at the end.

        Raises:
            BadRequest: The body is no gzip or zlib data, or is cut.
        """
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._stream.read(CHUNK_BYTES)
            try:
                data = self._unpacker.decompress(packed, size)
            except zlib.error as error:
                raise BadRequest("The body does not match its Content-Encoding.") from error
            if data:
                return data
            if not packed:
                raise BadRequest("The compressed body is cut.")
        return b""


def decompress_bodies(application: WSGIApplication, max_body_bytes: int) -> WSGIApplication:
    """Return a WSGI application that gets the bodies with a Content-Encoding unpacked.

    An unpacked body has the limit of any other, and no more than that is ever unpacked.
    """

    def unpacked(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
        if encoding in _COMPRESSIONS:
            stream = DecompressedBody(environ["wsgi.input"])
            environ["wsgi.input"] = BoundedBody(stream, max_body_bytes, None)
            environ["wsgi.input_terminated"] = True
            environ.pop("CONTENT_LENGTH", None)
        elif encoding not in ("", "identity"):
            environ["wsgi.input"] = BoundedBody(_UnreadBody(), max_body_bytes, None)
        return application(environ, start_response)

    return unpacked


class _UnreadBody:
    """A body in an encoding that is not read."""

    def read(self, size: int, /) -> bytes:
        """Raise UnsupportedMediaType."""
        raise UnsupportedMediaType("A body with a Content-Encoding must be gzip or deflate.")


def bound_bodies(application: WSGIApplication, max_body_bytes: int) -> WSGIApplication:
    """Return a WSGI application whose request bodies are bounded."""

    def bounded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        announced = str(environ.get("CONTENT_LENGTH") or "")
        announced_bytes = int(announced) if announced.isdecimal() else None
        environ["wsgi.input"] = BoundedBody(environ["wsgi.input"], max_body_bytes, announced_bytes)
        return application(environ, start_response)

    return bounded


def plain_slashes(application: WSGIApplication) -> WSGIApplication:
    """Return a WSGI application for which `//ocr` and `/ocr/` are `/ocr`.

    A base URL may end with a slash, and frameworks of clients add one to a path.

    Flask would redirect, which not every client follows with its body, and with a page of HTML.
    """

    def merged(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = re.sub("/{2,}", "/", environ.get("PATH_INFO", ""))
        environ["PATH_INFO"] = path.rstrip("/") or "/"
        return application(environ, start_response)

    return merged


def disconnect_check(environ: Mapping[str, object]) -> Callable[[], bool]:
    """Return a function that checks whether the client of a request has disconnected.

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
