"""The WSGI environment of a request: its body, its path, and whether the client is connected.

The check of a connection consumes nothing and never waits. A client that closes only its sending
half (`nc -N`) looks the same as one that has disconnected.
"""

from __future__ import annotations

import re
import select
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from qwen_captcha.scheduling.pending import never_disconnected

if TYPE_CHECKING:
    from _typeshed import SupportsRead
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CHUNK_BYTES = 64 * 1024
# zlib then accepts both the header of gzip and its own.
_EITHER_HEADER = 32
_COMPRESSIONS = ("gzip", "x-gzip", "deflate")
PEER_CLOSED: int = getattr(select, "POLLRDHUP", 0)


class DecompressedBody:
    """The decompressed content of a gzip or zlib body.

    Args:
        stream: The compressed body.
        encoding: Its Content-Encoding, in lower case.
    """

    def __init__(self, stream: SupportsRead[bytes], encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | _EITHER_HEADER)

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, which is positive; none at the end.

        Raises:
            UnsupportedMediaType: The encoding is not supported.
            BadRequest: The body is not gzip or zlib data, or is incomplete.
        """
        if self._encoding not in _COMPRESSIONS:
            raise UnsupportedMediaType("A body with a Content-Encoding must be gzip or deflate.")
        while not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._stream.read(CHUNK_BYTES)
            try:
                data = self._unpacker.decompress(packed, size)
            except zlib.error as error:
                raise BadRequest("The body does not match its Content-Encoding.") from error
            if data:
                return data
            if not packed:
                raise BadRequest("The compressed body is incomplete.")
        return b""


def readable_bodies(application: WSGIApplication) -> WSGIApplication:
    """Return a WSGI application that decompresses bodies and detects incomplete ones.

    Flask limits the size of a body after decompression.
    """

    def readable(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
        if encoding not in ("", "identity"):
            environ["wsgi.input"] = DecompressedBody(environ["wsgi.input"], encoding)
            environ["wsgi.input_terminated"] = True
            environ.pop("CONTENT_LENGTH", None)
        elif environ.get("CONTENT_LENGTH"):
            # Otherwise Werkzeug would accept a body that is shorter than its Content-Length.
            environ.pop("wsgi.input_terminated", None)
        return application(environ, start_response)

    return readable


def plain_slashes(application: WSGIApplication) -> WSGIApplication:
    """Return a WSGI application that handles `//ocr` and `/ocr/` as `/ocr`.

    A base URL may end with a slash, and some client libraries add one to a path. Flask would send a
    redirect with an HTML page, and not every client sends its body again after a redirect.
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
    if connection is None or not PEER_CLOSED:
        return never_disconnected

    def is_disconnected() -> bool:
        poll = select.poll()
        try:
            poll.register(connection, PEER_CLOSED)  # type: ignore[arg-type]
        except ValueError:  # It is closed already.
            return True
        return bool(poll.poll(0))

    return is_disconnected
