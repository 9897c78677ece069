"""Many concurrent HTTP clients in one thread.

A thread for each client, with `http.client`, took more processor time than the service under test.
Connections are kept alive and opened on demand. A request ends with its reply or an `OSError`,
after `TIMEOUT_S` at the latest.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one request.

    Attributes:
        status: HTTP status.
        retry_after: Whether there is a `Retry-After`.
        body: The body of the reply.
        seconds: Seconds from sending to the last byte.
    """

    status: int
    retry_after: bool
    body: bytes
    seconds: float


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._reply: asyncio.Future[tuple[bytes, bytes]] | None = None
        self._transport: asyncio.Transport | None = None

    @property
    def closed(self) -> bool:
        """Whether the service has closed it."""
        return self._transport is None or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = bytes(self._received).partition(b"\r\n\r\n")
        if not end or self._reply is None or self._reply.done():
            return
        if len(body) >= _content_length(head):
            self._received.clear()
            self._reply.set_result((head, body))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error or ConnectionResetError("closed without a reply"))

    async def ask(self, request: bytes) -> Reply:
        """Send a request and return its reply.

        Raises:
            OSError: There was no reply.
        """
        if self._transport is None:
            raise ConnectionResetError("closed before the request")
        start = time.perf_counter()
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(TIMEOUT_S):
            head, body = await self._reply
        seconds = time.perf_counter() - start
        lower = head.lower()
        if b"connection: close" in lower:
            self.close()
        return Reply(int(head[9:12]), b"\r\nretry-after:" in lower, body, seconds)


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0])


class AsyncClient:
    """An HTTP client of one service over at most `max_connections` connections.

    Args:
        url: The service's root.
        max_connections: Maximum connections; a further request waits for one.
    """

    def __init__(self, url: str, max_connections: int) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: list[_Connection] = []

    def post(self, path: str, image: bytes) -> bytes:
        """Return the bytes of a request that sends an image."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: image/png\r\nContent-Length: {len(image)}\r\n\r\n"
        )
        return head.encode() + image

    def get(self, path: str) -> bytes:
        """Return the bytes of a request without a body."""
        return f"GET {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n\r\n".encode()

    async def ask(self, request: bytes) -> Reply:
        """Send a request over an idle connection, or a new one.

        Raises:
            OSError: There was no reply.
        """
        async with self._slots:
            connection = await self._connection()
            try:
                reply = await connection.ask(request)
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)
            return reply

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port)
        return connection

    def close(self) -> None:
        """Close all idle connections."""
        for connection in self._idle:
            connection.close()
