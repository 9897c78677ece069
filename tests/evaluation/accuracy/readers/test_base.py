from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from evaluation.accuracy.readers.base import (
    Reader,
    ReaderError,
    Reply,
    read_all,
    service_reader,
)
from qwen_captcha.samples import Family, Sample
from tests.support.readings import answered
from tests.support.stub_service import Call, stub_service

READY = (200, json.dumps({"model": "bundled", "model_status": "ready"}).encode())


class Echo:
    """Reads an image as its own bytes."""

    name = "echo"

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []

    def read(self, image: bytes, content_type: str, kind: str) -> Reply:
        self.calls.append((image.decode(), content_type, kind))
        return Reply(answered(image.decode()), 0.5)


def files(folder: Path, *names: str) -> tuple[Sample, ...]:
    for name in names:
        (folder / name).write_text(name)
    return tuple(Sample(folder / name, "x") for name in names)


def test_each_image_is_read_once_with_its_content_type_and_kind(tmp_path: Path) -> None:
    types = {"1.png": "image/png", "2.JPG": "image/jpeg", "3": "application/octet-stream"}
    family = Family("f", "math", files(tmp_path, *types))
    echo, steps = Echo(), []
    ((found, predictions),) = read_all([family], echo, 1, lambda: steps.append(None))
    assert found is family
    assert echo.calls == [(name, content_type, "math") for name, content_type in types.items()]
    assert [(p.text, p.latency_s) for p in predictions] == [(name, 0.5) for name in types]
    assert len(steps) == 3


def test_workers_read_concurrently_and_keep_the_order(tmp_path: Path) -> None:
    both_inside = threading.Barrier(2, timeout=30)

    class ConcurrentReader(Echo):
        def read(self, image: bytes, content_type: str, kind: str) -> Reply:
            both_inside.wait()
            return super().read(image, content_type, kind)

    families = [
        Family("a", "alnum", files(tmp_path, "1.png", "2.png", "3.png")),
        Family("b", "alnum", files(tmp_path, "4.png")),
    ]
    scored = read_all(families, ConcurrentReader(), 2, lambda: None)
    texts = [[prediction.text for prediction in predictions] for _, predictions in scored]
    assert texts == [["1.png", "2.png", "3.png"], ["4.png"]]


def test_an_error_of_a_reader_ends_the_run(tmp_path: Path) -> None:
    class Broken(Echo):
        def read(self, image: bytes, content_type: str, kind: str) -> Reply:
            self.calls.append(("", "", ""))
            raise ReaderError("gone")

    broken = Broken()
    family = Family("f", "alnum", files(tmp_path, *(f"{i}.png" for i in range(50))))
    with pytest.raises(ReaderError, match="gone"):
        read_all([family], broken, 1, lambda: None)
    assert len(broken.calls) == 1


def read_once(reader: Reader) -> Reply:
    return reader.read(b"image", "image/png", "alnum")


def test_the_options_are_sent_to_the_service() -> None:
    calls: list[Call] = []

    def script(call: Call) -> tuple[int, bytes]:
        calls.append(call)
        body = {"success": True, "text": "12", "confidence": 0.75, "warnings": ["slow"]}
        return READY if call.path == "/health" else (200, json.dumps(body).encode())

    with (
        stub_service(script) as url,
        service_reader(url, 1, {"kind": "digits", "charset": "1 2&"}) as reader,
    ):
        reply = read_once(reader)
    assert reader.name == "bundled"
    assert (reply.answer.text, reply.answer.confidence) == ("12", 0.75)
    assert reply.answer.warnings == ("slow",)
    assert reply.latency_s > 0
    assert calls[-1].path == "/ocr?kind=digits&charset=1+2%26"
    assert calls[-1].body == b"image"


def test_a_rejected_image_has_no_answer() -> None:
    body = json.dumps({"success": False, "text": "", "error_type": "undecodable_image"}).encode()
    with (
        stub_service(lambda call: READY if call.path == "/health" else (422, body)) as url,
        service_reader(url, 1, {}) as reader,
    ):
        answer = read_once(reader).answer
    assert (answer.success, answer.error_type) == (False, "undecodable_image")


@pytest.mark.parametrize(
    ("status", "fields", "message"),
    [
        pytest.param(503, {"error_type": "queue_full"}, "queue_full.*fewer", id="overloaded"),
        pytest.param(429, {"error_type": "rate_limited"}, "rate_limited.*fewer", id="too-fast"),
        pytest.param(
            400,
            {"error_type": "invalid_option", "error": "kind is odd"},
            "kind is odd",
            id="option",
        ),
        pytest.param(200, ["no object"], "not a JSON object", id="no-service-of-ours"),
    ],
)
def test_an_error_that_concerns_every_image_ends_the_run(
    status: int, fields: object, message: str
) -> None:
    body = json.dumps(fields).encode()
    with (
        stub_service(lambda call: READY if call.path == "/health" else (status, body)) as url,
        service_reader(url, 1, {}) as reader,
        pytest.raises(ReaderError, match=message),
    ):
        read_once(reader)
