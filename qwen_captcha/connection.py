"""Whether the caller of a request is still there.

Responsible for: looking at the connection, where the server shows it (gunicorn) and the system can
tell (Linux). Invariant: looking takes nothing off the connection and never waits.

A client that closes only its sending half (`nc -N`) cannot be told from one that has gone.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping

HUNG_UP: int = getattr(select, "POLLRDHUP", 0)


def stays() -> bool:
    """Return that nobody has left: the answer where that cannot be known."""
    return False


def departure_of(environ: Mapping[str, object]) -> Callable[[], bool]:
    """Return a function that says whether the caller of a request has hung up.

    Args:
        environ: The WSGI environment of the request.
    """
    connection = environ.get("gunicorn.socket")
    if connection is None or not HUNG_UP:
        return stays

    def has_left() -> bool:
        poll = select.poll()
        try:
            poll.register(connection, HUNG_UP)  # type: ignore[arg-type]
        except ValueError:  # It is closed already.
            return True
        return bool(poll.poll(0))

    return has_left
