from __future__ import annotations

import pytest

from qwen_captcha.errors import QueueFull
from qwen_captcha.scheduling.admission import AdmissionController
from tests.support.fake_clock import FakeClock


@pytest.fixture
def controller(clock: FakeClock) -> AdmissionController:
    """Return a controller of four slots that has measured nothing."""
    return AdmissionController(4, clock)


@pytest.mark.parametrize("busy", [4, 3], ids=["full", "too few slots"])
def test_more_images_than_free_slots_are_rejected_with_a_time_to_retry(
    controller: AdmissionController, clock: FakeClock, busy: int
) -> None:
    controller.reserve(busy, clock.now_s + 8)
    with pytest.raises(QueueFull) as rejection:
        controller.reserve(2, clock.now_s + 8)
    assert rejection.value.retry_after_s == 1
    assert controller.admitted == busy


def test_all_slots_can_be_taken_at_once_and_again(
    controller: AdmissionController, clock: FakeClock
) -> None:
    for _ in range(2):
        controller.reserve(4, clock.now_s + 8)
        controller.mark_queued(4)
        controller.release(4)
    assert (controller.admitted, controller.decoding) == (0, 0)


@pytest.mark.parametrize(
    ("busy", "slots", "left_s", "refused"),
    [
        (0, 1, 8.0, False),
        (0, 4, 0.1, False),
        (1, 1, 6.0, False),
        (1, 1, 5.9, True),
        (1, 2, 8.0, True),
        (2, 1, 9.0, False),
    ],
    ids=[
        "idle",
        "idle, although it looks hopeless",
        "just in time",
        "just too late",
        "a batch too late",
        "a longer deadline",
    ],
)
def test_a_wait_beyond_the_deadline_is_rejected_at_once(
    controller: AdmissionController,
    clock: FakeClock,
    busy: int,
    slots: int,
    left_s: float,
    refused: bool,
) -> None:
    controller.record_latency(3.0)
    controller.reserve(busy, clock.now_s + 100)
    if not refused:
        controller.reserve(slots, clock.now_s + left_s)
        assert controller.admitted == busy + slots
        return
    with pytest.raises(QueueFull, match="would take about") as rejection:
        controller.reserve(slots, clock.now_s + left_s)
    assert rejection.value.retry_after_s == 3 * busy


def test_the_estimate_follows_the_measurements_slowly(
    controller: AdmissionController, clock: FakeClock
) -> None:
    controller.record_latency(1.0)
    controller.record_latency(6.0)
    controller.reserve(1, clock.now_s + 100)
    controller.reserve(1, clock.now_s + 4.0)
    with pytest.raises(QueueFull):
        controller.reserve(1, clock.now_s + 5.9)
