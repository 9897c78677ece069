"""JSON over HTTP to an engine: pooled connections, a deadline, few retries.

Network failures are raised as errors of `errors.py`. No call exceeds its deadline, however slowly
the server sends. The key is never logged and in no error. Redirects are not followed, because the
key would be sent along.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import aiohttp

from qwen_captcha.errors import (
    DEFAULT_RETRY_S,
    CaptchaServiceError,
    DeadlineExceeded,
    EngineBusy,
    EngineFailed,
    EngineRejected,
    EngineUnreachable,
)
from qwen_captcha.value_parsers import Secret

# A request may be sent again, because it changes nothing. More retries would add to an overload.
MAX_RETRIES = 2
# Maximum seconds of the first pause; each further maximum is twice as long.
FIRST_PAUSE_S = 0.25
CONNECT_TIMEOUT_S = 3.0
# For calls that no request waits for.
MAX_CALL_S = 120.0
MAX_REPLY_BYTES = 4 * 1024 * 1024
# Maximum logged characters of an unusable reply.
LOGGED_CHARACTERS = 300
MAX_RETRY_AFTER_S = 3600

Outcome = TypeVar("Outcome")

log = logging.getLogger(__name__)


class _Retriable(Exception):
    """A failure after which a retry may succeed, `pause_s` later at the earliest."""

    def __init__(self, error: CaptchaServiceError, pause_s: float = 0.0) -> None:
        super().__init__(error.message)
        self.error = error
        self.pause_s = pause_s


class EngineClient:
    """Sends requests to one server; thread-safe.

    Args:
        key: The bearer token; empty for none.
        max_connections: Maximum concurrent requests.
        monotonic: The clock of deadlines, in seconds.
    """

    def __init__(
        self,
        key: Secret,
        max_connections: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = key
        self._max_connections = max_connections
        self._monotonic = monotonic
        self._session: aiohttp.ClientSession | None = None
        # Blocking clients limit the time of each read; an event loop can limit a whole call.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="engine-client", daemon=True
        )
        self._thread.start()
        atexit.register(self.close)

    def get(self, url: str, deadline: float) -> dict[str, Any]:
        """Return the JSON object at an address; for errors see `post`."""
        return self._run(self._call_until("GET", url, None, deadline))

    def post(self, url: str, body: dict[str, object], deadline: float) -> dict[str, Any]:
        """Send a JSON object and return the JSON object of the reply.

        Args:
            url: The address.
            body: The object to send.
            deadline: Time of the clock at which the call times out.

        Raises:
            DeadlineExceeded: There was no reply in time.
            EngineUnreachable: There is no connection.
            EngineBusy: The server accepts no more requests now.
            EngineRejected: The server rejects the request.
            EngineFailed: The server failed, or its reply is not a JSON object.
        """
        return self._run(self._call_until("POST", url, body, deadline))

    def close(self) -> None:
        """Close all connections."""
        atexit.unregister(self.close)
        if self._session is not None:
            self._run(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _call_until(
        self, method: str, url: str, body: dict[str, object] | None, deadline: float
    ) -> dict[str, Any]:
        left_s = min(deadline - self._monotonic(), MAX_CALL_S)
        try:
            async with asyncio.timeout(left_s):
                return await self._call(method, url, body, self._monotonic() + left_s)
        except TimeoutError:
            raise DeadlineExceeded(
                "The engine did not answer in time; please retry.", retry_after_s=1
            ) from None

    async def _call(
        self, method: str, url: str, body: dict[str, object] | None, deadline: float
    ) -> dict[str, Any]:
        """Send a request, and retry it where that may help before the deadline."""
        for attempt in itertools.count():
            try:
                return await self._attempt(method, url, body)
            except _Retriable as failure:
                # Half of the pause is random, so that requests that failed together spread out.
                pause_s = FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.0)
                pause_s = max(pause_s, failure.pause_s)
                if attempt == MAX_RETRIES or self._monotonic() + pause_s >= deadline:
                    raise failure.error from None
                await asyncio.sleep(pause_s)
        raise AssertionError  # The loop only ends with a return or an error.

    async def _attempt(
        self, method: str, url: str, body: dict[str, object] | None
    ) -> dict[str, Any]:
        try:
            async with self._open_session().request(
                method, url, json=body, allow_redirects=False
            ) as response:
                content = await _read_bounded(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            log.debug("No connection to the engine: %s", self._without_key(str(error)))
            raise _Retriable(_unreachable()) from None
        except (aiohttp.ClientError, OSError) as error:
            log.warning("The engine closed the connection: %s", self._without_key(repr(error)))
            raise _Retriable(_failed("The engine closed the connection.")) from None
        return self._object_of(response.status, response.headers.get("Retry-After"), content)

    def _open_session(self) -> aiohttp.ClientSession:
        """Return the session, which is created and used only on the event loop."""
        if self._session is None:
            key = self._key.value
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
            )
        return self._session

    def _object_of(self, status: int, retry_after: str | None, content: bytes) -> dict[str, Any]:
        """Return the JSON object of a reply, or raise the error for its status or content."""
        if status == 200:
            found = _json_object(content)
            if found is None:
                self._log_reply(status, content)
                raise _failed("The reply of the engine is not a JSON object.")
            return found
        self._log_reply(status, content)
        if status in (429, 503):
            wait_s = _seconds(retry_after)
            busy = EngineBusy(
                "The engine accepts no more requests now; please retry.",
                retry_after_s=DEFAULT_RETRY_S if wait_s is None else max(1, math.ceil(wait_s)),
            )
            raise _Retriable(busy, wait_s or 0.0)
        if status in (502, 504):
            raise _Retriable(_failed(f"The engine failed with HTTP {status}."))
        if status >= 500:
            raise _failed(f"The engine failed with HTTP {status}.")
        raise EngineRejected(f"The engine rejected the request with HTTP {status}.")

    def _log_reply(self, status: int, content: bytes) -> None:
        text = " ".join(content.decode(errors="replace").split())
        log.warning(
            "The engine replied with HTTP %d: %s",
            status,
            self._without_key(text)[:LOGGED_CHARACTERS],
        )

    def _without_key(self, text: str) -> str:
        """Return a text without the key, which some servers repeat."""
        return text.replace(self._key.value, "…") if self._key.value else text


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of a reply; only the beginning if it is too long."""
    content = b""
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_REPLY_BYTES:
            response.close()
            break
    return content


def _json_object(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After; None for a date or an invalid value."""
    text = (retry_after or "").strip()
    if not (text.isascii() and text.isdigit()):
        return None
    return float(min(int(text[:9]), MAX_RETRY_AFTER_S))


def _failed(message: str) -> EngineFailed:
    return EngineFailed(message, retry_after_s=DEFAULT_RETRY_S)


def _unreachable() -> EngineUnreachable:
    return EngineUnreachable("The engine cannot be reached.", retry_after_s=DEFAULT_RETRY_S)
