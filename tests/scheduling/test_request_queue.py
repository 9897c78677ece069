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
from qwen_captcha.scheduling.pending import PendingResult
from qwen_captcha.scheduling.request_queue import (
    ModelState,
    RequestQueue,
    Reservation,
    seconds_to_wait,
)
from tests.support.fake_clock import FakeClock

Queue = RequestQueue[str, str]


@pytest.fixture
def queue(clock: FakeClock) -> Queue:
    """Return a queue of four slots whose model is ready, with batches of three."""
    queue: Queue = RequestQueue(
        max_queue_size=4, max_batch_size=3, max_queue_delay_s=0.0, monotonic=clock
    )
    queue.set_state(ModelState.READY)
    return queue


def reserve(queue: Queue, clock: FakeClock, slots: int) -> Reservation[str, str]:
    return queue.reserve(slots, clock.now_s + 8)


@pytest.mark.parametrize(
    ("prepare", "error", "retry_after_s"),
    [
        (lambda queue: queue.set_state(ModelState.LOADING), ModelLoading, 5),
        (lambda queue: queue.close(), Draining, 5),
        (lambda queue: queue.reserve(4, 1e9), QueueFull, 1),
    ],
    ids=["loading", "draining", "full"],
)
def test_a_request_that_cannot_be_taken_is_rejected_with_a_time_to_retry(
    queue: Queue,
    clock: FakeClock,
    prepare: Callable[[Queue], None],
    error: type[CaptchaServiceError],
    retry_after_s: int,
) -> None:
    prepare(queue)
    admitted = queue.admitted
    with pytest.raises(error) as rejection:
        queue.reserve(2, clock.now_s + 8)
    assert rejection.value.retry_after_s == retry_after_s
    assert queue.admitted == admitted


def test_no_slots_are_never_rejected(queue: Queue, clock: FakeClock) -> None:
    queue.close()
    queue.reserve(0, clock.now_s)
    assert queue.admitted == 0


def test_an_overload_is_detected_before_a_slot_is_reserved(queue: Queue, clock: FakeClock) -> None:
    queue.reject_overload(clock.now_s + 8)
    queue.reserve(4, clock.now_s + 8)
    with pytest.raises(QueueFull, match="full"):
        queue.reject_overload(clock.now_s + 8)
    queue.close()
    queue.reject_overload(clock.now_s + 8)  # `reserve` gives the reason


def test_a_broken_model_is_tried_by_one_request_at_a_time(queue: Queue, clock: FakeClock) -> None:
    queue.set_state(ModelState.FAILED, "broken")
    queue.reserve(1, clock.now_s + 8)
    with pytest.raises(ModelFailed):
        queue.reserve(1, clock.now_s + 8)
    queue.release(1)
    queue.reserve(1, clock.now_s + 8)


def test_slots_are_released_however_they_were_used(queue: Queue, clock: FakeClock) -> None:
    shared: PendingResult[str, str] = PendingResult("shared", clock.now_s + 8, clock)
    with reserve(queue, clock, 4) as reservation:
        reservation.submit("task")
        reservation.attach(shared)
        reservation.release_slot()
        assert (queue.admitted, queue.decoding) == (3, 1)
    # The queue owns the slot of what was submitted; its outcome releases it.
    assert queue.admitted == 1


def test_joining_a_finished_task_uses_no_slot(queue: Queue, clock: FakeClock) -> None:
    over: PendingResult[str, str] = PendingResult("over", clock.now_s + 8, clock)
    over.set_result("result")
    with reserve(queue, clock, 1) as reservation:
        assert not reservation.attach(over)
        reservation.submit("instead")
    assert queue.admitted == 1


def test_an_error_in_a_reservation_cancels_its_tasks(queue: Queue, clock: FakeClock) -> None:
    batch = []

    def break_down() -> None:
        with reserve(queue, clock, 2) as reservation:
            batch.append(reservation.submit("task"))
            raise ValueError("decoding broke")

    with pytest.raises(ValueError, match="decoding broke"):
        break_down()
    assert not batch[0].start()
    assert queue.admitted == 1


def test_more_images_than_slots_are_a_bug(queue: Queue, clock: FakeClock) -> None:
    with reserve(queue, clock, 1) as reservation:
        reservation.release_slot()
        with pytest.raises(AssertionError, match="more images than slots"):
            reservation.submit("task")


def test_a_closed_queue_has_drained_when_its_last_slot_is_released(
    queue: Queue, clock: FakeClock
) -> None:
    queue.reserve(1, clock.now_s + 8)
    queue.close()
    assert not queue.wait_until_empty(0)
    queue.release(1)
    assert queue.wait_until_empty(0)
    assert queue.next_batch() == []


def test_a_state_changes_once(queue: Queue) -> None:
    assert queue.set_state(ModelState.FAILED, "broken")
    assert not queue.set_state(ModelState.FAILED, "broken again")
    assert (queue.state, queue.error) == (ModelState.FAILED, "broken")
    assert queue.set_state(ModelState.READY)
    assert (queue.state, queue.error) == (ModelState.READY, None)


@pytest.mark.parametrize(
    ("queued", "decoding", "age_s", "wait_s"),
    [
        (1, 0, 0.0, 0.0),
        (3, 0, 0.0, 0.0),
        (1, 1, 0.0, 0.5),
        (3, 5, 0.2, 0.3),
        (1, 1, 0.5, 0.0),
        (1, 1, 9.0, 0.0),
        (4, 9, 0.0, 0.0),
        (7, 9, 0.0, 0.0),
    ],
    ids=[
        "alone",
        "no other comes",
        "one comes",
        "the clock is the first one's",
        "time is up",
        "time was up long ago",
        "full",
        "more than full",
    ],
)
def test_the_delay_of_a_batch(queued: int, decoding: int, age_s: float, wait_s: float) -> None:
    found = seconds_to_wait(queued, decoding, age_s, max_batch_size=4, max_delay_s=0.5)
    assert found == pytest.approx(wait_s)


def test_batches_are_taken_in_the_order_of_arrival(queue: Queue, clock: FakeClock) -> None:
    with reserve(queue, clock, 4) as reservation:
        for task in "abcd":
            reservation.submit(task)
        batches = [[pending.task for pending in queue.next_batch()] for _ in range(2)]
    assert batches == [["a", "b", "c"], ["d"]]


def test_a_drained_queue_has_no_batch(queue: Queue) -> None:
    queue.close()
    assert queue.next_batch() == []
