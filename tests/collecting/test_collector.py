"""Collecting beside answering: nothing waits for the disk, nothing fails with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

import pytest

from qwen_captcha.collecting import collector as collector_module
from qwen_captcha.collecting.archive import CollectedAnswer, Feedback, StoreResult
from qwen_captcha.collecting.collector import Collector, create_collector
from qwen_captcha.errors import CaptchaServiceError, ServiceUnavailable, UnknownRequest
from qwen_captcha.metrics import Metrics
from qwen_captcha.recognition.answer import Answer
from qwen_captcha.recognition.options import Kind, Options, parse_options
from qwen_captcha.settings import SettingsError, load_settings
from tests.support.fake_backend import MAX_WAIT_S

ANSWER = Answer("a3b9", 0.9, True, "a3b9")
FEEDBACK = Feedback("id", correct=True)


class FakeArchive:
    """Remembers what it is given; blocks while it is held; fails while it has an error."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.error: Exception | None = None
        self.is_free = threading.Event()
        self.is_free.set()
        self.is_asked = threading.Event()

    def keep(self, answers: list[CollectedAnswer]) -> StoreResult:
        self.is_asked.set()
        assert self.is_free.wait(MAX_WAIT_S)
        if self.error:
            raise self.error
        self.ids += [answer.request_id for answer in answers]
        return StoreResult(kept=len(answers), removed=1)

    def record(self, feedback: list[Feedback]) -> list[CaptchaServiceError | None]:
        assert self.is_free.wait(MAX_WAIT_S)
        if self.error:
            raise self.error
        known = [one.request_id in self.ids for one in feedback]
        return [None if is_known else UnknownRequest("Unknown.") for is_known in known]


@pytest.fixture
def archive() -> Iterator[FakeArchive]:
    archive = FakeArchive()
    yield archive
    archive.is_free.set()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def collector(archive: FakeArchive, metrics: Metrics) -> Iterator[Collector]:
    collector = Collector(archive, metrics)
    collector.start()
    yield collector
    archive.is_free.set()
    collector.close()


def keep(collector: Collector, request_id: str, options: Options = Options()) -> None:  # noqa: B008
    collector.keep(request_id, b"image", ANSWER, options, "model")


def collected(metrics: Metrics, outcome: str) -> float:
    sample = metrics.render().decode()
    [line] = [
        line for line in sample.splitlines() if f'collected_total{{outcome="{outcome}"' in line
    ]
    return float(line.split()[-1])


def test_a_collected_image_is_written_before_its_feedback(
    collector: Collector, archive: FakeArchive, metrics: Metrics
) -> None:
    archive.is_free.clear()
    for number in range(100):
        keep(collector, f"{number}")
    threading.Timer(0.05, archive.is_free.set).start()
    collector.feedback(Feedback("99", correct=True), MAX_WAIT_S)
    assert archive.ids == [f"{number}" for number in range(100)]
    assert collected(metrics, "kept") == 100
    assert collected(metrics, "removed") >= 1
    assert 'feedback_total{verdict="correct"} 1.0' in metrics.render().decode()
    with pytest.raises(UnknownRequest):
        collector.feedback(Feedback("100", correct=True), MAX_WAIT_S)


def test_a_slow_disk_delays_no_answer(
    collector: Collector,
    archive: FakeArchive,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collector_module, "MAX_QUEUE_LENGTH", 10)
    archive.is_free.clear()
    keep(collector, "first")
    assert archive.is_asked.wait(MAX_WAIT_S)
    for number in range(100):
        keep(collector, f"{number}")
    assert collected(metrics, "dropped") == 90
    with pytest.raises(ServiceUnavailable):
        collector.feedback(FEEDBACK, MAX_WAIT_S)
    archive.is_free.set()
    collector.close()
    assert archive.ids == ["first", *(f"{number}" for number in range(10))]


def test_the_bytes_of_the_queue_are_limited(
    archive: FakeArchive, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector_module, "MAX_QUEUE_BYTES", 12)
    collector = Collector(archive, metrics)
    for number in range(3):
        keep(collector, f"{number}")
    assert collected(metrics, "dropped") == 1
    collector.start()
    collector.close()
    assert archive.ids == ["0", "1"]


def test_a_full_disk_is_one_warning_and_the_service_goes_on(
    collector: Collector,
    archive: FakeArchive,
    metrics: Metrics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    archive.error = OSError(28, "No space left on device")
    with caplog.at_level(logging.INFO, "qwen_captcha"):
        for _ in range(3):
            keep(collector, "id")
            with pytest.raises(ServiceUnavailable) as refused:
                collector.feedback(FEEDBACK, MAX_WAIT_S)
            assert refused.value.retry_after_s
        assert collected(metrics, "failed") == 3
        archive.error = None
        keep(collector, "id")
        collector.feedback(FEEDBACK, MAX_WAIT_S)
    assert [record.getMessage() for record in caplog.records] == [
        "Images cannot be collected: [Errno 28] No space left on device. Answers are not affected; "
        "check COLLECT_DIR and its disk.",
        "Images are collected again.",
    ]


def test_feedback_that_is_written_ends_a_failure(
    collector: Collector, archive: FakeArchive, caplog: pytest.LogCaptureFixture
) -> None:
    archive.error = OSError(28, "No space left on device")
    with caplog.at_level(logging.INFO, "qwen_captcha"):
        with pytest.raises(ServiceUnavailable):
            collector.feedback(FEEDBACK, MAX_WAIT_S)
        archive.error = None
        with pytest.raises(UnknownRequest):
            collector.feedback(FEEDBACK, MAX_WAIT_S)
        collector.close()
    assert caplog.records[-1].getMessage() == "Images are collected again."


def test_an_error_of_the_archive_does_not_stop_the_collector(
    collector: Collector, archive: FakeArchive
) -> None:
    archive.error = ValueError("bug")
    keep(collector, "id")
    with pytest.raises(ServiceUnavailable):
        collector.feedback(FEEDBACK, MAX_WAIT_S)
    archive.error = None
    keep(collector, "id")
    collector.feedback(FEEDBACK, MAX_WAIT_S)


def test_feedback_that_takes_too_long_is_unavailable(
    collector: Collector, archive: FakeArchive
) -> None:
    archive.is_free.clear()
    with pytest.raises(ServiceUnavailable):
        collector.feedback(FEEDBACK, 0.01)


def test_nothing_is_taken_after_the_end(collector: Collector, archive: FakeArchive) -> None:
    collector.close()
    keep(collector, "id")
    with pytest.raises(ServiceUnavailable):
        collector.feedback(FEEDBACK, MAX_WAIT_S)
    assert archive.ids == []


@pytest.mark.parametrize(
    ("options", "is_kept"),
    [
        (Options(), True),
        (parse_options({"charset_range": "0", "case": "lower", "kind": "math"}), True),
        (Options(prompt="Only the red ones."), False),
        (Options(kind=Kind.QUESTION), False),
        (parse_options({"colors": ["red"]}), False),
    ],
)
def test_only_transcriptions_are_collected(
    collector: Collector, archive: FakeArchive, options: Options, is_kept: bool
) -> None:
    keep(collector, "id", options)
    collector.close()
    assert archive.ids == ["id"] * is_kept


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("x"),
        lambda path: (path.mkdir(), (path / "labels.tsv").write_text("x\n")),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, metrics: Metrics, make: Callable[..., object]
) -> None:
    path = tmp_path_factory.mktemp("here") / "folder"
    make(path)
    with pytest.raises(SettingsError, match=f"COLLECT_DIR={path} cannot be used") as refused:
        create_collector(load_settings({"COLLECT_DIR": str(path)}), metrics)
    assert "\n" not in str(refused.value)


def test_without_the_setting_nothing_is_collected(metrics: Metrics) -> None:
    assert create_collector(load_settings({}), metrics) is None
