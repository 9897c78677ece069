from __future__ import annotations

from collections.abc import Callable

import pytest

from qwen_captcha.errors import (
    CaptchaServiceError,
    Draining,
    ModelFailed,
    ModelLoading,
    QueueFull,
)
from qwen_captcha.scheduling.admission import (
    AdmissionController,
    ModelState,
    Reservation,
)
from qwen_captcha.scheduling.pending import PendingResult
from tests.support.fake_clock import FakeClock


@pytest.fixture
def controller(clock: FakeClock) -> AdmissionController:
    """Return a controller of four slots that is ready and has measured nothing."""
    controller = AdmissionController(4, clock)
    controller.set_state(ModelState.READY)
    return controller


def reserve(controller: AdmissionController, clock: FakeClock, slots: int) -> Reservation[str, str]:
    controller.reserve(slots, clock.now_s + 8)
    return Reservation(
        controller, lambda task, deadline: PendingResult(task, deadline, clock), slots, 0
    )


@pytest.mark.parametrize(
    ("prepare", "error", "retry_after_s"),
    [
        (lambda controller: controller.set_state(ModelState.LOADING), ModelLoading, 5),
        (lambda controller: controller.close(), Draining, 5),
        (lambda controller: controller.reserve(4, 1e9), QueueFull, 1),
        (lambda controller: controller.reserve(3, 1e9), QueueFull, 1),
    ],
    ids=["loading", "draining", "full", "too few slots"],
)
def test_what_cannot_be_taken_is_refused_with_a_time_to_retry(
    controller: AdmissionController,
    clock: FakeClock,
    prepare: Callable[[AdmissionController], None],
    error: type[CaptchaServiceError],
    retry_after_s: int,
) -> None:
    prepare(controller)
    admitted = controller.admitted
    with pytest.raises(error) as refusal:
        controller.reserve(2, clock.now_s + 8)
    assert refusal.value.retry_after_s == retry_after_s
    assert controller.admitted == admitted


def test_no_slots_are_never_rejected(controller: AdmissionController, clock: FakeClock) -> None:
    controller.close()
    controller.reserve(0, clock.now_s)
    assert controller.admitted == 0


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
def test_a_wait_beyond_the_deadline_is_refused_at_once(
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
    with pytest.raises(QueueFull, match="would take about") as refusal:
        controller.reserve(slots, clock.now_s + left_s)
    assert refusal.value.retry_after_s == 3 * busy


def test_dispatched_images_count_as_if_they_had_their_slots(
    controller: AdmissionController, clock: FakeClock
) -> None:
    assert controller.rejection(clock.now_s + 8, dispatched=100) is None  # idle
    controller.reserve(2, clock.now_s + 8)
    assert controller.rejection(clock.now_s + 8, dispatched=1) is None
    assert isinstance(controller.rejection(clock.now_s + 8, dispatched=2), QueueFull)
    controller.record_latency(3.0)
    assert controller.rejection(clock.now_s + 12, dispatched=1) is None
    assert isinstance(controller.rejection(clock.now_s + 11.9, dispatched=1), QueueFull)


def test_a_reservation_is_reported_once_it_is_counted(
    controller: AdmissionController, clock: FakeClock
) -> None:
    admitted: list[int] = []
    controller.on_reserved = lambda: admitted.append(controller.admitted)
    controller.reserve(3, clock.now_s + 8)
    with pytest.raises(QueueFull):
        controller.reserve(2, clock.now_s + 8)
    assert admitted == [3]


def test_the_estimate_follows_the_measurements_slowly(
    controller: AdmissionController, clock: FakeClock
) -> None:
    controller.record_latency(1.0)
    controller.record_latency(6.0)
    controller.reserve(1, clock.now_s + 100)
    controller.reserve(1, clock.now_s + 4.0)
    with pytest.raises(QueueFull):
        controller.reserve(1, clock.now_s + 5.9)


def test_a_broken_model_is_tried_by_one_request_at_a_time(
    controller: AdmissionController, clock: FakeClock
) -> None:
    controller.set_state(ModelState.FAILED, "broken")
    controller.reserve(1, clock.now_s + 8)
    with pytest.raises(ModelFailed):
        controller.reserve(1, clock.now_s + 8)
    controller.release(1)
    controller.reserve(1, clock.now_s + 8)


def test_slots_are_released_however_they_were_used(
    controller: AdmissionController, clock: FakeClock
) -> None:
    shared: PendingResult[str, str] = PendingResult("shared", clock.now_s + 8, clock)
    with reserve(controller, clock, 4) as reservation:
        reservation.submit("task")
        reservation.attach(shared)
        reservation.release_slot()
        assert (controller.admitted, controller.decoding) == (3, 2)
    # The queue owns the slot of what was submitted; its outcome releases it.
    assert controller.admitted == 1


def test_joining_what_is_over_uses_no_slot(
    controller: AdmissionController, clock: FakeClock
) -> None:
    over: PendingResult[str, str] = PendingResult("over", clock.now_s + 8, clock)
    over.set_result("result")
    with reserve(controller, clock, 1) as reservation:
        assert not reservation.attach(over)
        reservation.submit("instead")
    assert controller.admitted == 1


def test_leaving_with_an_error_drops_what_was_submitted(
    controller: AdmissionController, clock: FakeClock
) -> None:
    batch = []

    def break_down() -> None:
        with reserve(controller, clock, 2) as reservation:
            batch.append(reservation.submit("task"))
            raise ValueError("decoding broke")

    with pytest.raises(ValueError, match="decoding broke"):
        break_down()
    assert not batch[0].start()
    assert controller.admitted == 1


def test_more_images_than_slots_are_a_bug(
    controller: AdmissionController, clock: FakeClock
) -> None:
    with reserve(controller, clock, 1) as reservation:
        reservation.release_slot()
        with pytest.raises(AssertionError, match="more images than slots"):
            reservation.submit("task")


def test_a_closed_controller_is_drained_when_its_last_slot_is_released(
    controller: AdmissionController, clock: FakeClock
) -> None:
    controller.reserve(1, clock.now_s + 8)
    controller.close()
    assert not controller.drained
    assert not controller.wait_until_empty(0)
    controller.release(1)
    assert controller.drained
    assert controller.wait_until_empty(0)


def test_an_open_controller_is_never_drained(controller: AdmissionController) -> None:
    assert not controller.drained
