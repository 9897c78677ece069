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
    Admission,
    Gate,
    ModelState,
)
from qwen_captcha.scheduling.pending import Ticket
from tests.support.fake_clock import FakeClock


@pytest.fixture
def gate(clock: FakeClock) -> Gate:
    """Return a gate of four places that is ready and has measured nothing."""
    gate = Gate(4, clock)
    gate.enter(ModelState.READY)
    return gate


def admission(gate: Gate, clock: FakeClock, places: int) -> Admission[str, str]:
    gate.take(places, clock.now_s + 8)
    return Admission(gate, lambda task, deadline: Ticket(task, deadline, clock), places, 0)


@pytest.mark.parametrize(
    ("prepare", "error", "retry_after_s"),
    [
        (lambda gate: gate.enter(ModelState.LOADING), ModelLoading, 5),
        (lambda gate: gate.close(), Draining, 5),
        (lambda gate: gate.take(4, 1e9), QueueFull, 1),
        (lambda gate: gate.take(3, 1e9), QueueFull, 1),
    ],
    ids=["loading", "draining", "full", "too few places"],
)
def test_what_cannot_be_taken_is_refused_with_a_time_to_retry(
    gate: Gate,
    clock: FakeClock,
    prepare: Callable[[Gate], None],
    error: type[CaptchaServiceError],
    retry_after_s: int,
) -> None:
    prepare(gate)
    admitted = gate.admitted
    with pytest.raises(error) as refusal:
        gate.take(2, clock.now_s + 8)
    assert refusal.value.retry_after_s == retry_after_s
    assert gate.admitted == admitted


def test_no_places_are_never_refused(gate: Gate, clock: FakeClock) -> None:
    gate.close()
    gate.take(0, clock.now_s)
    assert gate.admitted == 0


def test_all_places_can_be_taken_at_once_and_again(gate: Gate, clock: FakeClock) -> None:
    for _ in range(2):
        gate.take(4, clock.now_s + 8)
        gate.arrive(4)
        gate.release(4)
    assert (gate.admitted, gate.on_their_way) == (0, 0)


@pytest.mark.parametrize(
    ("busy", "places", "left_s", "refused"),
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
    gate: Gate, clock: FakeClock, busy: int, places: int, left_s: float, refused: bool
) -> None:
    gate.learn(3.0)
    gate.take(busy, clock.now_s + 100)
    if not refused:
        gate.take(places, clock.now_s + left_s)
        assert gate.admitted == busy + places
        return
    with pytest.raises(QueueFull, match="would take about") as refusal:
        gate.take(places, clock.now_s + left_s)
    assert refusal.value.retry_after_s == 3 * busy


def test_images_that_are_coming_count_as_if_they_had_their_places(
    gate: Gate, clock: FakeClock
) -> None:
    assert gate.refusal(clock.now_s + 8, coming=100) is None  # idle
    gate.take(2, clock.now_s + 8)
    assert gate.refusal(clock.now_s + 8, coming=1) is None
    assert isinstance(gate.refusal(clock.now_s + 8, coming=2), QueueFull)
    gate.learn(3.0)
    assert gate.refusal(clock.now_s + 12, coming=1) is None
    assert isinstance(gate.refusal(clock.now_s + 11.9, coming=1), QueueFull)


def test_who_takes_places_is_told_once_they_are_counted(gate: Gate, clock: FakeClock) -> None:
    admitted: list[int] = []
    gate.on_taken = lambda: admitted.append(gate.admitted)
    gate.take(3, clock.now_s + 8)
    with pytest.raises(QueueFull):
        gate.take(2, clock.now_s + 8)
    assert admitted == [3]


def test_the_estimate_follows_the_measurements_slowly(gate: Gate, clock: FakeClock) -> None:
    gate.learn(1.0)
    gate.learn(6.0)
    gate.take(1, clock.now_s + 100)
    gate.take(1, clock.now_s + 4.0)
    with pytest.raises(QueueFull):
        gate.take(1, clock.now_s + 5.9)


def test_a_broken_model_is_tried_by_one_request_at_a_time(gate: Gate, clock: FakeClock) -> None:
    gate.enter(ModelState.FAILED, "broken")
    gate.take(1, clock.now_s + 8)
    with pytest.raises(ModelFailed):
        gate.take(1, clock.now_s + 8)
    gate.release(1)
    gate.take(1, clock.now_s + 8)


def test_places_are_given_back_however_they_were_used(gate: Gate, clock: FakeClock) -> None:
    shared: Ticket[str, str] = Ticket("shared", clock.now_s + 8, clock)
    with admission(gate, clock, 4) as places:
        places.submit("task")
        places.join(shared)
        places.skip()
        assert (gate.admitted, gate.on_their_way) == (3, 2)
    # The queue owns the place of what was submitted; the ticket's settling gives it back.
    assert gate.admitted == 1


def test_joining_what_is_over_uses_no_place(gate: Gate, clock: FakeClock) -> None:
    over: Ticket[str, str] = Ticket("over", clock.now_s + 8, clock)
    over.succeed("result")
    with admission(gate, clock, 1) as places:
        assert not places.join(over)
        places.submit("instead")
    assert gate.admitted == 1


def test_leaving_with_an_error_drops_what_was_submitted(gate: Gate, clock: FakeClock) -> None:
    tickets = []

    def break_down() -> None:
        with admission(gate, clock, 2) as places:
            tickets.append(places.submit("task"))
            raise ValueError("decoding broke")

    with pytest.raises(ValueError, match="decoding broke"):
        break_down()
    assert not tickets[0].claim()
    assert gate.admitted == 1


def test_more_images_than_places_are_a_bug(gate: Gate, clock: FakeClock) -> None:
    with admission(gate, clock, 1) as places:
        places.skip()
        with pytest.raises(AssertionError, match="more images than places"):
            places.submit("task")


def test_a_closed_gate_is_drained_when_its_last_place_is_back(gate: Gate, clock: FakeClock) -> None:
    gate.take(1, clock.now_s + 8)
    gate.close()
    assert not gate.drained
    assert not gate.wait_until_empty(0)
    gate.release(1)
    assert gate.drained
    assert gate.wait_until_empty(0)


def test_an_open_gate_is_never_drained(gate: Gate) -> None:
    assert not gate.drained
