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
# Lets zlib take the header of gzip or its own, whichever there is.
_EITHER_HEADER = 32
_COMPRESSIONS = ("gzip", "x-gzip", "deflate")
HUNG_UP: int = getattr(select, "POLLRDHUP", 0)


class DecompressedBody:
    """The body that a gzip or zlib body unpacks to, which raises where it is no such body.

    Args:
        stream: The packed body.
        encoding: Its Content-Encoding, in lower case.
    """

    def __init__(self, stream: SupportsRead[bytes], encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._unpacker = zlib.decompressobj(zlib.MAX_WBITS | _EITHER_HEADER)

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes, which is positive; none at the end.

        Raises:
            UnsupportedMediaType: The encoding is not one that is unpacked.
            BadRequest: The body is no gzip or zlib data, or is cut.
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
                raise BadRequest("The compressed body is cut.")
        return b""


def readable_bodies(application: WSGIApplication) -> WSGIApplication:
    """Return a WSGI application that gets packed bodies unpacked and notices bodies that are cut.

    Flask limits what is read of a body, unpacked or not.
    """

    def readable(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        encoding = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
        if encoding not in ("", "identity"):
            environ["wsgi.input"] = DecompressedBody(environ["wsgi.input"], encoding)
            environ["wsgi.input_terminated"] = True
            environ.pop("CONTENT_LENGTH", None)
        elif environ.get("CONTENT_LENGTH"):
            # Else Werkzeug takes the end of the stream for the end of the body.
            environ.pop("wsgi.input_terminated", None)
        return application(environ, start_response)

    return readable


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
