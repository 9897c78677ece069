"""A client of a running service, over one keep-alive HTTP connection.

Every returned reply is a JSON object; any other reply raises ServiceError. One thread owns a
client.
"""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode, urlsplit

# Errors of the next request after the server has closed an idle keep-alive connection.
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class ServiceError(Exception):
    """The service cannot be used at all; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and its reply.

    Attributes:
        status: HTTP status code.
        fields: The reply's JSON object.
        latency_s: Seconds from sending the request to having read the reply.
        cache_use: Value of `X-Cache`: `hit` for a cached or shared answer; None without one.
    """

    status: int
    fields: Mapping[str, object]
    latency_s: float
    cache_use: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply of the service for one image.

    Attributes:
        text: The answer, empty where there is none.
        confidence: Probability in [0, 1] that `text` is right.
        success: Whether there is an answer.
        raw_response: The output of the model, where the reply has it.
        error_type: The reason why there is no answer, or None.
        warnings: Warnings of the reply.
    """

    text: str
    confidence: float
    success: bool
    raw_response: str | None
    error_type: str | None
    warnings: tuple[str, ...] = ()


class ServiceClient:
    """Calls one service; a context manager that closes its connection."""

    def __init__(
        self, url: str, timeout_s: float = 60.0, options: Mapping[str, str] | None = None
    ) -> None:
        """Prepare a client; nothing is sent yet.

        Args:
            url: Root of the service, such as `http://127.0.0.1:5000`.
            timeout_s: Seconds that one read or write on the connection may take.
            options: Request options of every `/ocr`, sent in the query.

        Raises:
            ServiceError: `url` is not an HTTP address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServiceError(f"{url} is not an address such as http://127.0.0.1:5000.")
        connection = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        try:
            self._connection = connection(parts.hostname, parts.port, timeout=timeout_s)
        except ValueError as error:
            raise ServiceError(f"{url} has no usable port: {error}.") from error
        self._url = url
        self._root = parts.path.rstrip("/")
        self._ocr = f"/ocr?{urlencode(options)}" if options else "/ocr"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a later call opens a new one."""
        self._connection.close()

    def health(self) -> Exchange:
        """Return `GET /health`, whatever its status."""
        return self._exchange("GET", "/health", None, {})

    def ocr(self, image: bytes, content_type: str = "image/png") -> tuple[Answer, Exchange]:
        """Send one image as the raw body of `POST /ocr`, as the Go program does."""
        exchange = self._exchange("POST", self._ocr, image, {"Content-Type": content_type})
        return answer_of(exchange.fields), exchange

    def batch_ocr(self, images: Sequence[bytes]) -> tuple[list[Answer], Exchange]:
        """Send several images as multipart fields of `POST /batch-ocr`.

        Raises:
            ServiceError: The reply does not have one result for each image.
        """
        body, content_type = _multipart(images)
        exchange = self._exchange("POST", "/batch-ocr", body, {"Content-Type": content_type})
        results = exchange.fields.get("results")
        if not isinstance(results, list) or len(results) != len(images):
            raise ServiceError(f"{self._url}/batch-ocr: {exchange.fields.get('error', exchange)}")
        return [answer_of(result) for result in results], exchange

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Exchange:
        """Send one request, and retry it if an idle connection had been closed.

        Raises:
            ServiceError: There is no service, or its reply is not a JSON object.
        """
        reused = self._connection.sock is not None
        try:
            try:
                return self._send(method, path, body, headers)
            except _STALE:
                self._connection.close()
                if not reused:
                    raise
                return self._send(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServiceError(f"{self._url} does not answer: {error!r}") from error

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Exchange:
        start = time.perf_counter()
        self._connection.request(method, self._root + path, body, dict(headers))
        with self._connection.getresponse() as response:
            payload = response.read()
        latency_s = time.perf_counter() - start
        fields = self._json_object(path, payload)
        return Exchange(response.status, fields, latency_s, response.getheader("X-Cache"))

    def _json_object(self, path: str, payload: bytes) -> dict[str, object]:
        try:
            fields = json.loads(payload)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise ServiceError(f"{self._url}{path}: not a JSON object: {payload[:80]!r}")
        return fields


def answer_of(fields: Mapping[str, object]) -> Answer:
    """Return the answer in a reply or in an item of a batch.

    Raises:
        ServiceError: `confidence` is not a probability.
    """
    confidence = fields.get("confidence", 0.0)
    if not isinstance(confidence, int | float) or not 0.0 <= confidence <= 1.0:
        raise ServiceError(f"The reply's confidence is no probability: {confidence!r}")
    raw_response = fields.get("raw_response")
    error_type = fields.get("error_type")
    warnings = fields.get("warnings")
    return Answer(
        text=str(fields.get("text", "")),
        confidence=float(confidence),
        success=fields.get("success") is True,
        raw_response=None if raw_response is None else str(raw_response),
        error_type=None if error_type is None else str(error_type),
        warnings=tuple(map(str, warnings)) if isinstance(warnings, list) else (),
    )


def _multipart(images: Sequence[bytes]) -> tuple[bytes, str]:
    """Return a body with each image as a file field `images`, and its content type."""
    boundary = uuid.uuid4().hex
    parts = [
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="images"; filename="{index}.png"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
        + image
        + b"\r\n"
        for index, image in enumerate(images)
    ]
    parts.append(f"--{boundary}--\r\n".encode())
    return b"".join(parts), f"multipart/form-data; boundary={boundary}"
