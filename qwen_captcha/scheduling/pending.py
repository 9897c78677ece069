"""The pending result of one task, and the requests that wait for it.

The thread that owns the model sets one outcome. Every request that attached in time gets it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from qwen_captcha.errors import CaptchaServiceError, ClientDisconnected, DeadlineExceeded

# Seconds between two checks of the connection to the client of a waiting request.
DISCONNECT_CHECK_INTERVAL_S = 1.0

Task = TypeVar("Task")
Result = TypeVar("Result")


def never_disconnected() -> bool:
    """Return False, where there is no connection to check."""
    return False


class PendingResult(Generic[Task, Result]):
    """One task and its outcome; created with one request that waits for it.

    Args:
        task: The task for the model.
        deadline: Time of the clock at which the first request times out.
        monotonic: The clock, in seconds.

    Attributes:
        task: The task for the model.
        arrival: Time of the clock at which it was created.
    """

    def __init__(self, task: Task, deadline: float, monotonic: Callable[[], float]) -> None:
        self.task = task
        self.arrival = monotonic()
        self._monotonic = monotonic
        self._done = threading.Event()
        self._lock = threading.Lock()
        # All of the following is guarded by `_lock`.
        self._started = self._finished = self.arrival
        self._deadline = deadline
        self._waiters = 1
        self._is_started = False
        self._result: Result | None = None
        self._error: CaptchaServiceError | None = None

    @property
    def queue_s(self) -> float:
        """Seconds until the model began with the task; valid with the result."""
        return self._started - self.arrival

    @property
    def inference_s(self) -> float:
        """Seconds from then until the result; valid with the result."""
        return self._finished - self._started

    def attach(self, deadline: float) -> bool:
        """Attach one more request; return False if the task is finished or cancelled."""
        with self._lock:
            if self._done.is_set() or self._waiters == 0:
                return False
            self._waiters += 1
            self._deadline = max(self._deadline, deadline)
            return True

    def cancel(self) -> None:
        """Note that one request does not wait any more."""
        with self._lock:
            self._waiters -= 1

    def start(self) -> bool:
        """Note that the model begins; return False if all requests are cancelled or timed out."""
        with self._lock:
            if self._waiters > 0 and self._monotonic() < self._deadline:
                self._is_started = True
                # A failed batch is retried in halves; the first start remains.
                if self._started == self.arrival:
                    self._started = self._monotonic()
                return True
            self._error = deadline_exceeded()
            self._done.set()
            return False

    def set_result(self, result: Result) -> None:
        """Set the result, and wake the waiting requests."""
        with self._lock:
            self._result = result
            self._finished = self._monotonic()
            self._done.set()

    def set_exception(self, error: CaptchaServiceError) -> None:
        """Set the error, and wake the waiting requests."""
        with self._lock:
            self._error = error
            self._done.set()

    def result(
        self, deadline: float, is_disconnected: Callable[[], bool] = never_disconnected
    ) -> Result:
        """Return the result.

        Args:
            deadline: Time of the clock at which this request times out.
            is_disconnected: Whether the client of this request has disconnected. Called while the
                task waits for the model, every `DISCONNECT_CHECK_INTERVAL_S`.

        Raises:
            DeadlineExceeded: There was no outcome before the deadline.
            ClientDisconnected: The client disconnected before the model began.
            CaptchaServiceError: The task failed.
        """
        while not self._done.wait(
            max(0.0, min(deadline - self._monotonic(), DISCONNECT_CHECK_INTERVAL_S))
        ):
            if self._monotonic() >= deadline:
                raise deadline_exceeded()
            if self._is_queued() and is_disconnected():
                raise ClientDisconnected("The client disconnected before the model began.")
        if self._error is not None:
            # Each request raises its own copy: a raised exception grows its thread's traceback.
            raise type(self._error)(self._error.message, retry_after_s=self._error.retry_after_s)
        assert self._result is not None
        return self._result

    def _is_queued(self) -> bool:
        """Return whether the model has not begun with the task."""
        with self._lock:
            return not self._is_started


def deadline_exceeded() -> DeadlineExceeded:
    """Return the error of a request whose deadline passed."""
    return DeadlineExceeded("The answer was not ready in time; please retry.", retry_after_s=1)
