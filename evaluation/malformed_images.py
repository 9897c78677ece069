"""Send malformed images to a service in every form of request, and check the replies.

    python -m evaluation.malformed_images [--every 10] [--cache ~/.cache/qwen-captcha]

A reply that is not a JSON object with status 200 or 4xx within the time is a fault; a run with
faults ends with status 1. A full run takes hours on two cores: the bundled checkpoint reads each
image that decodes in nine forms, twice.
"""

from __future__ import annotations

import argparse
import base64
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from evaluation.accuracy.table import aligned
from evaluation.load.machine import (
    commit_of,
    cpu_model,
    resident_bytes,
)
from evaluation.load.malformed_files import (
    NamedImage,
    damaged_captchas,
    pillow_images,
)
from evaluation.services.service_process import (
    BUNDLED,
    PROJECT,
    running_service,
)
from qwen_captcha.errors import IMAGE_FAILED, REQUEST_FAILED

SLOWEST_S = 2.0
# The messages of the service for its own bugs, for dialects without a status.
BUGS = (REQUEST_FAILED, IMAGE_FAILED)
# Maximum growth of resident memory from the first round of all images to the second.
MAX_GROWTH = 0.05
CAPTCHAS = 20
TIMEOUT_S = 30.0
MIB = 1024 * 1024
SHOWN_FAULTS = 20


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Each form's route and the arguments of `requests`.
FORMS: dict[str, tuple[str, Callable[[bytes], dict[str, Any]]]] = {
    "raw body": ("/ocr", lambda data: {"data": data, "headers": {"Content-Type": "image/png"}}),
    "multipart": ("/ocr", lambda data: {"files": {"image": ("x.png", data)}}),
    "JSON": ("/ocr", lambda data: {"json": {"image_base64": _base64(data)}}),
    "batch": ("/batch-ocr", lambda data: {"files": [("images", ("x.png", data))] * 2}),
    "ddddocr api, JSON": ("/ocr", lambda data: {"json": {"image": _base64(data)}}),
    "ddddocr api, file": ("/ocr/file", lambda data: {"files": {"file": ("x.png", data)}}),
    "ocr_api_server, file": ("/ocr/file/json", lambda data: {"files": {"image": ("x", data)}}),
    "ocr_api_server, base64": ("/ocr/b64/json", lambda data: {"data": _base64(data)}),
    "ddddocr-fastapi": ("/ocr", lambda data: {"files": {"file": ("x.png", data)}}),
}


@dataclass
class Record:
    """The reply to one form of request.

    Attributes:
        statuses: Number of replies by status.
        slowest_s: Seconds of the slowest reply.
        faults: A line for each faulty reply.
        resident_bytes: Memory of the service afterwards; None where its process is not known.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    resident_bytes: int | None = None


def send_all(url: str, images: Iterable[NamedImage], pid: int | None = None) -> dict[str, Record]:
    """Send every image in every form, one after the other; return the records by form."""
    images = list(images)
    records = {}
    with requests.Session() as session:
        for form, (route, arguments) in FORMS.items():
            record = records[form] = Record()
            for name, data in images:
                _send(session, url + route, arguments(data), name, record)
            record.resident_bytes = None if pid is None else resident_bytes(pid)
    return records


def _send(
    session: requests.Session, url: str, arguments: dict[str, Any], name: str, record: Record
) -> None:
    """Send one image and record the reply."""
    start = time.perf_counter()
    try:
        reply = session.post(url, timeout=TIMEOUT_S, **arguments)
    except requests.RequestException as error:
        record.faults.append(f"{name}: {type(error).__name__}")
        return
    seconds = time.perf_counter() - start
    record.statuses[reply.status_code] += 1
    record.slowest_s = max(record.slowest_s, seconds)
    if (fault := fault_of(reply, seconds)) is not None:
        record.faults.append(f"{name}: {fault}")


def fault_of(reply: requests.Response, seconds: float) -> str | None:
    """Return the fault of a reply, None where there is none."""
    if reply.status_code != 200 and not 400 <= reply.status_code < 500:
        return f"status {reply.status_code}: {reply.text[:100]}"
    try:
        fields = reply.json()
    except ValueError:
        return f"no JSON: {reply.text[:100]!r}"
    if not isinstance(fields, dict):
        return f"no JSON object: {reply.text[:100]!r}"
    results = fields.get("results", [])
    if any(result.get("error_type") == "internal_error" for result in results):
        return "an internal error in the batch"
    if fields.get("code") == 500 and fields.get("data") is None:
        return "code 500"
    if fields.get("msg") in BUGS:  # ocr_api_server replies to everything with 200.
        return str(fields["msg"])
    return f"{seconds:.2f} s" if seconds > SLOWEST_S else None


def growth(first: dict[str, Record], second: dict[str, Record]) -> float | None:
    """Return the relative growth of memory from one round to the next, None if unknown."""
    before, after = ([*records.values()][-1].resident_bytes for records in (first, second))
    return None if before is None or after is None else after / before - 1


def report(records: dict[str, Record]) -> str:
    """Return the table of the replies."""
    statuses = sorted({status for record in records.values() for status in record.statuses})
    rows: list[Sequence[str] | None] = [
        ["", *map(str, statuses), "slowest s", "MiB after", "faults"], None
    ]  # fmt: skip
    for form, record in records.items():
        size = record.resident_bytes
        rows.append([
            form, *(str(record.statuses[status]) for status in statuses),
            f"{record.slowest_s:.2f}", "–" if size is None else str(size // MIB),
            str(len(record.faults)),
        ])  # fmt: skip
    return "\n".join(aligned(rows))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the service on malformed images and print the results."""
    command = argparse.ArgumentParser(description="Send malformed images in every form.")
    command.add_argument("--cache", type=Path, default=Path("~/.cache/qwen-captcha").expanduser(),
                         help="folder for Pillow's source distribution")  # fmt: skip
    command.add_argument("--every", type=int, default=1, help="send only each N-th image")
    options = command.parse_args(arguments)
    options.cache.mkdir(parents=True, exist_ok=True)
    everything = [*pillow_images(options.cache), *damaged_captchas(CAPTCHAS)]
    images = everything[:: options.every]
    print(f"{len(images)} of {len(everything)} images in {len(FORMS)} forms, {cpu_model()}, "
          f"commit {commit_of(PROJECT)}", flush=True)  # fmt: skip
    with running_service(BUNDLED) as service:
        first = send_all(service.url, images, service.pid)
        records = send_all(service.url, images, service.pid)
    faults = [f"{form}: {line}" for found in (first, records)
              for form, record in found.items() for line in record.faults]  # fmt: skip
    grown = growth(first, records) or 0.0
    print(
        report(records),
        f"\nmemory after the second round: {grown:+.1%} against that after the first",
    )
    print("\n".join(faults[:SHOWN_FAULTS]))
    sys.exit(1 if faults or grown > MAX_GROWTH else 0)


if __name__ == "__main__":
    main()
