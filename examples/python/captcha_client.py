"""A small typed client of the captcha service; it needs nothing but Python.

python captcha_client.py http://127.0.0.1:5000 captcha.png …

client = CaptchaClient("http://127.0.0.1:5000")
print(client.solve(Path("captcha.png").read_bytes()).text)
"""

from __future__ import annotations

import base64
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The service answers one image within 8 s and a batch within 60 s, or replies with an error.
SOLVE_TIMEOUT_S = 10.0
BATCH_TIMEOUT_S = 70.0


class CaptchaError(Exception):
    """The service rejected the request, or had no usable answer.

    Attributes:
        error_type: For instance `queue_full` or `no_answer`.
        status: HTTP status; 200 where the model had no answer.
        retry_after_s: Seconds after which to try again, None where waiting does not help.
    """

    def __init__(
        self, message: str, error_type: str, status: int, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Answer:
    """The answer of the service for one image; `text` is empty without success.

    Attributes:
        request_id: What `feedback` is given.
    """

    success: bool
    text: str
    confidence: float
    raw_response: str
    error: str | None
    error_type: str | None
    warnings: tuple[str, ...]
    request_id: str


class CaptchaClient:
    """Asks one service; thread-safe.

    Args:
        url: Such as `http://127.0.0.1:5000`.
        options: Options of every request by their names, for instance `{"kind": "digits"}`.
    """

    def __init__(self, url: str, options: dict[str, str] | None = None) -> None:
        self._url = url.rstrip("/")
        self._options = options or {}

    def solve(self, image: bytes) -> Answer:
        """Return the answer to one image.

        Raises:
            CaptchaError: There is no answer.
            OSError: The service cannot be reached.
        """
        query = f"?{urllib.parse.urlencode(self._options)}" if self._options else ""
        path = f"/ocr{query}"
        body, request_id = self._post(path, image, "application/octet-stream", SOLVE_TIMEOUT_S)
        answer = _answer(body, request_id)
        if not answer.success:
            raise CaptchaError(answer.error or "No answer.", answer.error_type or "no_answer", 200)
        return answer

    def solve_batch(self, images: Sequence[bytes]) -> list[Answer]:
        """Return an answer for each image, in order; look at `success` of each.

        Raises:
            CaptchaError: The whole batch was rejected.
            OSError: The service cannot be reached.
        """
        texts = [base64.b64encode(image).decode() for image in images]
        data = json.dumps({"images_base64": texts, **self._options}).encode()
        body, request_id = self._post("/batch-ocr", data, "application/json", BATCH_TIMEOUT_S)
        return [
            _answer(result, f"{request_id}#{position}")
            for position, result in enumerate(body["results"], 1)
        ]

    def feedback(self, request_id: str, *, correct: bool, text: str | None = None) -> None:
        """Send whether the site accepted an answer, to a service with `COLLECT_DIR`.

        Args:
            request_id: Of the answer.
            correct: Whether the site took it.
            text: The right one, where the answer was wrong and it is known.

        Raises:
            CaptchaError: The service keeps no such answer, or collects none.
            OSError: The service cannot be reached.
        """
        fields = {"request_id": request_id, "correct": correct, "text": text}
        data = json.dumps(fields).encode()
        self._post("/feedback", data, "application/json", SOLVE_TIMEOUT_S)

    def _post(
        self, path: str, data: bytes, content_type: str, timeout_s: float
    ) -> tuple[dict[str, Any], str]:
        """Return the object that the service answers with, and the id of the request."""
        request = urllib.request.Request(self._url + path, data, {"Content-Type": content_type})
        try:
            with urllib.request.urlopen(request, timeout=timeout_s) as response:
                found = _json_or_none(response.read())
                request_id = response.headers.get("X-Request-Id", "")
        except urllib.error.HTTPError as error:
            with error:
                raise _rejection(error) from None
        if not isinstance(found, dict):
            raise CaptchaError("This is not a captcha service.", "not_a_service", 200)
        return found, request_id


def _answer(body: dict[str, Any], request_id: str) -> Answer:
    return Answer(
        success=body["success"],
        text=body["text"],
        confidence=body["confidence"],
        raw_response=body["raw_response"],
        error=body.get("error"),
        error_type=body.get("error_type"),
        warnings=tuple(body.get("warnings", ())),
        request_id=request_id,
    )


def _json_or_none(data: bytes) -> object:
    try:
        found: object = json.loads(data)
    except ValueError:
        return None
    return found


def _rejection(error: urllib.error.HTTPError) -> CaptchaError:
    """Return the error of a reply whose status is not 200."""
    retry_after = error.headers.get("Retry-After", "")
    try:
        body = json.load(error)
        message, error_type = str(body["error"]), str(body["error_type"])
    except (ValueError, KeyError, TypeError):
        message, error_type = "This is not a captcha service.", "not_a_service"
    retry_after_s = int(retry_after) if retry_after.isdigit() else None
    return CaptchaError(message, error_type, error.code, retry_after_s)


def main(url: str, paths: Sequence[str]) -> None:
    """Print the text of each image."""
    client = CaptchaClient(url)
    for path in paths:
        answer = client.solve(Path(path).read_bytes())
        print(f"{answer.confidence:.3f}  {answer.text}  {path}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: {sys.argv[0]} URL IMAGE…")
    main(sys.argv[1], sys.argv[2:])
