from __future__ import annotations

import threading

import pytest

from qwen_captcha.errors import CallerLeft, DeadlineExceeded, InternalError, OutOfMemory
from qwen_captcha.scheduling import pending
from qwen_captcha.scheduling.pending import Ticket
from tests.support.fake_backend import PATIENCE_S
from tests.support.fake_clock import FakeClock


@pytest.fixture
def ticket(clock: FakeClock) -> Ticket[str, str]:
    return Ticket("task", clock.now_s + 8, clock)


def test_the_result_reaches_whoever_waits(ticket: Ticket[str, str], clock: FakeClock) -> None:
    results: list[str] = []
    waiting = threading.Thread(target=lambda: results.append(ticket.wait(clock.now_s + PATIENCE_S)))
    waiting.start()
    ticket.succeed("result")
    waiting.join(PATIENCE_S)
    assert results == ["result"]


def test_a_result_that_is_there_is_returned_after_the_deadline_too(
    ticket: Ticket[str, str], clock: FakeClock
) -> None:
    ticket.succeed("result")
    assert ticket.wait(clock.now_s - 1) == "result"


def test_waiting_ends_at_the_deadline(ticket: Ticket[str, str], clock: FakeClock) -> None:
    with pytest.raises(DeadlineExceeded, match="not ready in time"):
        ticket.wait(clock.now_s)


def test_each_waiter_raises_an_error_of_its_own(ticket: Ticket[str, str], clock: FakeClock) -> None:
    ticket.fail(OutOfMemory("full", retry_after_s=5))
    raised = []
    for _ in range(2):
        with pytest.raises(OutOfMemory, match="full") as error:
            ticket.wait(clock.now_s)
        raised.append(error.value)
    assert raised[0] is not raised[1]
    assert [error.retry_after_s for error in raised] == [5, 5]


def test_a_wanted_task_is_claimed(ticket: Ticket[str, str]) -> None:
    assert ticket.claim()


def test_a_task_that_everybody_left_is_dropped(ticket: Ticket[str, str]) -> None:
    assert ticket.share(0)
    ticket.leave()
    assert ticket.claim()
    ticket.leave()
    assert not ticket.claim()


def test_a_late_task_is_dropped_and_says_so(ticket: Ticket[str, str], clock: FakeClock) -> None:
    clock.advance(8)
    assert not ticket.claim()
    with pytest.raises(DeadlineExceeded):
        ticket.wait(clock.now_s + PATIENCE_S)


def test_sharing_prolongs_a_task_to_the_latest_deadline(
    ticket: Ticket[str, str], clock: FakeClock
) -> None:
    assert ticket.share(clock.now_s + 60)
    assert ticket.share(clock.now_s + 1)
    clock.advance(30)
    assert ticket.claim()


def test_what_is_decided_or_dropped_is_not_shared(clock: FakeClock) -> None:
    succeeded, failed, dropped, left = (
        Ticket[str, str]("task", clock.now_s + 8, clock) for _ in range(4)
    )
    succeeded.succeed("result")
    failed.fail(InternalError("no"))
    dropped.leave()
    assert not dropped.claim()
    left.leave()
    later = clock.now_s + 100
    assert not any(ticket.share(later) for ticket in (succeeded, failed, dropped, left))


def test_a_caller_that_left_waits_no_longer_while_the_task_is_queued(
    ticket: Ticket[str, str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "LOOK_INTERVAL_S", 0.001)
    with pytest.raises(CallerLeft):
        ticket.wait(clock.now_s + 8, lambda: True)


def test_a_caller_that_left_while_the_model_reads_changes_nothing(
    ticket: Ticket[str, str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "LOOK_INTERVAL_S", 0.001)
    assert ticket.claim()
    threading.Timer(0.05, lambda: ticket.succeed("result")).start()
    assert ticket.wait(clock.now_s + PATIENCE_S, lambda: True) == "result"
