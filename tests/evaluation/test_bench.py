from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from evaluation.bench import (
    BATCH,
    CONCURRENT,
    PLAIN,
    Competitor,
    measure_single,
    measure_ways,
    plan_of,
    service_environment,
)
from evaluation.load.bench_report import Plan
from evaluation.services.client import ServiceError
from qwen_captcha.backends.hardware import usable_cores
from qwen_captcha.settings import load_settings
from tests.support.stub_service import Call, stub_service

pytestmark = pytest.mark.live

IMAGES = [f"image {index}".encode() for index in range(32)]


class StubReader:
    """Reads an image as its own bytes; counts what it was asked."""

    def __init__(self, cache_use: str = "off") -> None:
        self.paths: list[str] = []
        self.cache_use = cache_use

    def __call__(self, call: Call) -> tuple[int, bytes, dict[str, str]]:
        self.paths.append(call.path)
        headers = {"X-Cache": self.cache_use}
        if call.path == "/ocr":
            return 200, json.dumps(self.answer(call.body)).encode(), headers
        images = [part.split(b"\r\n")[0] for part in call.body.split(b"\r\n\r\n")[1:]]
        results = [self.answer(image) for image in images]
        return 200, json.dumps({"results": results}).encode(), headers

    def answer(self, image: bytes) -> dict[str, object]:
        return {"success": True, "text": "", "confidence": 1, "raw_response": image.decode()}


@pytest.fixture
def reader() -> StubReader:
    return StubReader()


@pytest.fixture
def url(reader: StubReader) -> Iterator[str]:
    with stub_service(reader) as address:
        yield address


def test_every_workload_reads_every_image_in_the_warm_up_and_each_round(
    reader: StubReader, url: str
) -> None:
    plainly: list[bytes] = []

    def plain_read(image: bytes) -> str:
        plainly.append(image)
        return image.decode()

    ways, agreed = measure_ways(url, IMAGES, 2, plain_read)
    assert [way.name for way in ways] == [PLAIN, BATCH, CONCURRENT]
    assert all(len(way.rounds) == 2 and min(way.rounds) > 0 for way in ways)
    assert plainly == IMAGES * 3
    assert reader.paths.count("/batch-ocr") == 3
    assert reader.paths.count("/ocr") == 3 * 32
    assert agreed == {BATCH: 1.0, CONCURRENT: 1.0}


def test_a_competitor_is_a_workload_of_its_own_and_takes_turns(
    reader: StubReader, url: str
) -> None:
    read: list[bytes] = []

    def read_one(image: bytes) -> str:
        read.append(image)
        return ""

    competitor = Competitor("competitor", read_one, lambda images: [*map(read_one, images)])
    ways, agreed = measure_ways(url, IMAGES, 2, bytes.decode, [competitor])
    assert [way.name for way in ways] == [PLAIN, BATCH, CONCURRENT, "competitor"]
    assert read == IMAGES * 3
    assert set(agreed) == {BATCH, CONCURRENT}
    reader.paths.clear()
    times = measure_single(url, IMAGES, competitor)
    assert (times.competitor, len(reader.paths), len(read)) == ("competitor", 32, 4 * 32)
    assert min(times.ours_s, times.theirs_s) > 0


def test_differing_texts_are_reported(url: str) -> None:
    _, agreed = measure_ways(
        url, IMAGES, 1, lambda image: "" if image in IMAGES[:8] else image.decode()
    )
    assert agreed == {BATCH: 0.75, CONCURRENT: 0.75}


def test_a_cached_reply_ends_the_measurement(reader: StubReader, url: str) -> None:
    reader.cache_use = "hit"
    with pytest.raises(ServiceError, match="X-Cache must not be hit, but it is hit"):
        measure_ways(url, IMAGES, 1, bytes.decode)


@pytest.mark.parametrize(
    ("argv", "plan", "json_file"),
    [
        pytest.param([], Plan("bundled", 64, 5, usable_cores()), None, id="defaults"),
        pytest.param(
            [
                *("--model=m", "--images=96", "--rounds=1", "--threads=1", "--json=f.json"),
                *("--backend", "onnx", "--against", "ddddocr", "torch"),
            ],
            Plan("m", 96, 1, 1, "onnx", ("ddddocr", "torch")),
            Path("f.json"),
            id="all",
        ),
    ],
)
def test_the_command_line(argv: list[str], plan: Plan, json_file: Path | None) -> None:
    assert plan_of(argv) == (plan, json_file)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(["--images", "48"], "48 is not a multiple of 32", id="no-whole-batches"),
        pytest.param(["--images", "0"], "0 is not a whole number", id="no-images"),
        pytest.param(["--rounds", "0"], "0 is not a whole number", id="no-rounds"),
        pytest.param(["--threads", "9999"], "more than the", id="more-threads-than-cores"),
        pytest.param(["--threads", "two"], "two is not a whole number", id="no-number"),
    ],
)
def test_misuse_of_the_command_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        plan_of(argv)
    assert message in capsys.readouterr().err


def test_the_service_accepts_its_environment() -> None:
    settings = load_settings(service_environment(Plan("bundled", 64, 5, 2)))
    assert (settings.qwen_model, settings.host) == ("bundled", "127.0.0.1")
    assert min(settings.ocr_timeout_s, settings.batch_ocr_timeout_s) == 600
