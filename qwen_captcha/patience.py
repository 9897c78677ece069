"""How long a client may take to send a request.

Responsible for: a socket that gives up on a client which sends nothing for a while, or too little
in all. Leaves what is answered then to `gunicorn_worker.py`. Invariant: reading one request ends
after `REQUEST_S`, whatever the client does, so that a thread is never held for longer.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from gunicorn.http.errors import ParseException

# As `deploy/nginx.conf` has it, client_header_timeout and client_body_timeout.
IDLE_S = 15.0
# The largest body, 64 MiB, at 6 Mbit/s.
REQUEST_S = 90.0


class TooSlow(ParseException):  # type: ignore[misc]
    """A client did not send its request in time."""


class PatientSocket:
    """A socket whose reads end; in all else the socket that it wraps.

    Args:
        wrapped: The connection to a client.
    """

    def __init__(self, wrapped: socket.socket) -> None:
        self._wrapped = wrapped
        self._deadline = 0.0
        self.expect_request()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)

    def expect_request(self) -> None:
        """Start the clock of the next request."""
        self._deadline = time.monotonic() + REQUEST_S

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return at most `size` bytes, none where the client has closed.

        Raises:
            TooSlow: Nothing came in time.
        """
        given = self._wrapped.gettimeout()
        left_s = min(IDLE_S, self._deadline - time.monotonic())
        # Whoever set a timeout wants its own error: the end of a refused upload is read so.
        if given is not None:
            return self._wrapped.recv(size, flags)
        self._wrapped.settimeout(max(left_s, 0.001))
        try:
            return self._wrapped.recv(size, flags)
        except TimeoutError as error:
            raise TooSlow from error
        finally:
            self._wrapped.settimeout(None)
