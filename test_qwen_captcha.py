"""Check a running captcha service.

    python test_qwen_captcha.py                      is it up and ready?
    python test_qwen_captcha.py captcha.png          read an image, in every form of request
    python test_qwen_captcha.py captcha.png PROMPT   the same, then with an instruction
    python test_qwen_captcha.py --url http://host:5000 …

The exit status is 0 if every check passed, else 1. Only Python's own library is needed. Under
pytest this module is the HTTP contract, which `tests/contract.py` holds.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEFAULT_URL = "http://127.0.0.1:5000"
# Longer than the service's own deadline for a batch, so that its own error is read.
TIMEOUT_S = 90.0
JSON_TYPE = "application/json"


@dataclass(frozen=True)
class Check:
    """One request to the service; a GET where there is no body."""

    name: str
    path: str
    body: bytes | None = None
    content_type: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of a check."""

    passed: bool
    message: str
    seconds: float = field(default=0.0)


def multipart(
    field_name: str, files: Mapping[str, bytes], texts: Mapping[str, str]
) -> tuple[bytes, str]:
    """Return a multipart body of files and text fields, and its content type."""
    boundary = uuid.uuid4().hex
    parts = [
        (f'name="{field_name}"; filename="{filename}"', data) for filename, data in files.items()
    ]
    parts += [(f'name="{name}"', text.encode()) for name, text in texts.items()]
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def image_checks(name: str, data: bytes, prompt: str | None) -> list[Check]:
    """Return the three forms of `/ocr` and the two of `/batch-ocr` for one image."""
    options = {"prompt": prompt} if prompt else {}
    suffix = " + prompt" if prompt else ""
    query = f"?{urllib.parse.urlencode(options)}" if options else ""
    text = base64.b64encode(data).decode()
    one_json = json.dumps({"image_base64": text, **options}).encode()
    many_json = json.dumps({"images_base64": [text, text], **options}).encode()
    many = multipart("images", {name: data, f"again-{name}": data}, options)
    return [
        Check(f"multipart{suffix}", "/ocr", *multipart("image", {name: data}, options)),
        Check(f"json{suffix}", "/ocr", one_json, JSON_TYPE),
        Check(f"raw body{suffix}", f"/ocr{query}", data, "application/octet-stream"),
        Check(f"batch{suffix}", "/batch-ocr", *many),
        Check(f"batch json{suffix}", "/batch-ocr", many_json, JSON_TYPE),
    ]


def send(url: str, check: Check) -> tuple[int, dict[str, Any]]:
    """Return status and JSON object of the reply to a check.

    Raises:
        OSError: There was no reply.
        ValueError: The reply is not a JSON object.
    """
    headers = {"Content-Type": check.content_type} if check.body is not None else {}
    request = urllib.request.Request(url + check.path, check.body, headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, body = error.code, error.read()
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return status, found


def run(url: str, check: Check) -> Outcome:
    """Send a check and judge the reply."""
    start = time.monotonic()
    try:
        status, body = send(url, check)
    except OSError as error:
        return Outcome(False, f"no reply: {getattr(error, 'reason', error)}")
    except ValueError:
        return Outcome(False, "the reply is not a JSON object")
    seconds = time.monotonic() - start
    if check.body is None:
        return Outcome(status == 200, describe_health(body), seconds)
    answers = body.get("results", [body])
    passed = status == 200 and all(answer.get("success") for answer in answers)
    return Outcome(passed, "; ".join(describe(answer) for answer in answers), seconds)


def describe_health(body: Mapping[str, Any]) -> str:
    """Return the line about the health of the service."""
    error = f": {body['error']}" if body.get("error") else ""
    return f"{body.get('model')} on {body.get('device')}, {body.get('model_status')}{error}"


def describe(answer: Mapping[str, Any]) -> str:
    """Return the line about one answer."""
    warnings = "".join(f" [{warning}]" for warning in answer.get("warnings", []))
    if not answer.get("success"):
        return f"{answer.get('error_type')}: {answer.get('error')}{warnings}"
    return f"{answer['text']!r} with confidence {answer['confidence']:.2f}{warnings}"


def main(arguments: Sequence[str]) -> int:
    """Run the checks that the arguments ask for; returns the exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path, nargs="?", help="image to read")
    parser.add_argument("prompt", nargs="?", help="instruction to read it with")
    parser.add_argument("--url", default=DEFAULT_URL, help=f"default {DEFAULT_URL}")
    options = parser.parse_args(arguments)
    checks = [Check("health", "/health")]
    if options.image:
        try:
            data = options.image.read_bytes()
        except OSError as error:
            parser.error(f"{options.image}: {error.strerror}")
        checks += image_checks(options.image.name, data, None)
        if options.prompt:
            checks += image_checks(options.image.name, data, options.prompt)
    print(options.url)
    outcomes = []
    for check in checks:
        outcome = run(options.url.rstrip("/"), check)
        outcomes.append(outcome)
        mark = "ok  " if outcome.passed else "FAIL"
        print(f"{mark}  {check.name:<20} {outcome.seconds * 1000:6.0f} ms  {outcome.message}")
    failures = sum(not outcome.passed for outcome in outcomes)
    print(f"{len(outcomes) - failures} of {len(outcomes)} checks passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# As a script this module needs nothing but Python; under pytest it is the contract suite.
import pytest  # noqa: E402

pytest.register_assert_rewrite("tests.contract")
from tests.contract import (  # noqa: E402
    TestBundledCheckpoint,
    TestFakeBackend,
    TestOnnxRuntime,
    TestRecordedVllm,
    TestScript,
    TestTransformersServe,
)

__all__ = [
    "TestBundledCheckpoint",
    "TestFakeBackend",
    "TestOnnxRuntime",
    "TestRecordedVllm",
    "TestScript",
    "TestTransformersServe",
]
