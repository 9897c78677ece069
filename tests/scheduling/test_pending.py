from __future__ import annotations

import threading

import pytest

from qwen_captcha.errors import ClientDisconnected, DeadlineExceeded, InternalError, OutOfMemory
from qwen_captcha.scheduling import pending as pending_module
from qwen_captcha.scheduling.pending import PendingResult
from tests.support.fake_backend import MAX_WAIT_S
from tests.support.fake_clock import FakeClock


@pytest.fixture
def pending(clock: FakeClock) -> PendingResult[str, str]:
    return PendingResult("task", clock.now_s + 8, clock)


def test_the_result_reaches_the_waiting_request(
    pending: PendingResult[str, str], clock: FakeClock
) -> None:
    results: list[str] = []
    waiting = threading.Thread(
        target=lambda: results.append(pending.result(clock.now_s + MAX_WAIT_S))
    )
    waiting.start()
    pending.set_result("result")
    waiting.join(MAX_WAIT_S)
    assert results == ["result"]


def test_a_finished_result_is_returned_after_the_deadline_too(
    pending: PendingResult[str, str], clock: FakeClock
) -> None:
    pending.set_result("result")
    assert pending.result(clock.now_s - 1) == "result"


def test_waiting_ends_at_the_deadline(pending: PendingResult[str, str], clock: FakeClock) -> None:
    with pytest.raises(DeadlineExceeded, match="not ready in time"):
        pending.result(clock.now_s)


def test_each_waiter_raises_an_error_of_its_own(
    pending: PendingResult[str, str], clock: FakeClock
) -> None:
    pending.set_exception(OutOfMemory("full", retry_after_s=5))
    raised = []
    for _ in range(2):
        with pytest.raises(OutOfMemory, match="full") as error:
            pending.result(clock.now_s)
        raised.append(error.value)
    assert raised[0] is not raised[1]
    assert [error.retry_after_s for error in raised] == [5, 5]


def test_a_task_with_clients_is_claimed(pending: PendingResult[str, str]) -> None:
    assert pending.start()


def test_a_task_without_clients_is_dropped(pending: PendingResult[str, str]) -> None:
    assert pending.attach(0)
    pending.cancel()
    assert pending.start()
    pending.cancel()
    assert not pending.start()


def test_a_late_task_is_dropped_with_its_error(
    pending: PendingResult[str, str], clock: FakeClock
) -> None:
    clock.advance(8)
    assert not pending.start()
    with pytest.raises(DeadlineExceeded):
        pending.result(clock.now_s + MAX_WAIT_S)


def test_sharing_prolongs_a_task_to_the_latest_deadline(
    pending: PendingResult[str, str], clock: FakeClock
) -> None:
    assert pending.attach(clock.now_s + 60)
    assert pending.attach(clock.now_s + 1)
    clock.advance(30)
    assert pending.start()


def test_finished_and_cancelled_tasks_are_not_shared(clock: FakeClock) -> None:
    succeeded, failed, dropped, left = (
        PendingResult[str, str]("task", clock.now_s + 8, clock) for _ in range(4)
    )
    succeeded.set_result("result")
    failed.set_exception(InternalError("no"))
    dropped.cancel()
    assert not dropped.start()
    left.cancel()
    later = clock.now_s + 100
    assert not any(pending.attach(later) for pending in (succeeded, failed, dropped, left))


def test_a_disconnected_client_stops_waiting_for_a_queued_task(
    pending: PendingResult[str, str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_module, "DISCONNECT_CHECK_INTERVAL_S", 0.001)
    with pytest.raises(ClientDisconnected):
        pending.result(clock.now_s + 8, lambda: True)


def test_a_client_that_disconnects_during_inference_changes_nothing(
    pending: PendingResult[str, str], clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_module, "DISCONNECT_CHECK_INTERVAL_S", 0.001)
    assert pending.start()
    threading.Timer(0.05, lambda: pending.set_result("result")).start()
    assert pending.result(clock.now_s + MAX_WAIT_S, lambda: True) == "result"
