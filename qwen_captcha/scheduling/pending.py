"""PendingResult: one task on its way through the queue, and the requests that wait for its result.

Responsible for: handing one outcome from the thread that owns the model to one or more request
threads; knowing whether any of them still waits. Invariant: a pending result gets exactly one
outcome, and every request that attached in time gets that outcome.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from qwen_captcha.errors import CallerLeft, CaptchaServiceError, DeadlineExceeded

# How often a waiting request checks the connection to its client.
DISCONNECT_CHECK_INTERVAL_S = 1.0

Task = TypeVar("Task")
Result = TypeVar("Result")


def never_disconnected() -> bool:
    """Return False: the answer where the connection cannot be looked at."""
    return False


class PendingResult(Generic[Task, Result]):
    """One task and its outcome; created with one request that waits for it.

    Args:
        task: What the model shall read.
        deadline: Time of the clock after which the first request does not wait any more.
        monotonic: The clock, in seconds.
    """

    def __init__(self, task: Task, deadline: float, monotonic: Callable[[], float]) -> None:
        self.task = task
        self.arrival = monotonic()
        # When the model began with it, and when the outcome was there.
        self.started = self.finished = self.arrival
        self._monotonic = monotonic
        self._done = threading.Event()
        self._lock = threading.Lock()
        # All of the following is guarded by `_lock`.
        self._deadline = deadline
        self._waiters = 1
        self._is_started = False
        self._result: Result | None = None
        self._error: CaptchaServiceError | None = None

    def attach(self, deadline: float) -> bool:
        """Attach one more request; returns False where the outcome is already decided."""
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
        """Note that the model begins; returns False where no request waits any more, in time."""
        with self._lock:
            if self._waiters > 0 and self._monotonic() < self._deadline:
                self._is_started = True
                # A batch that failed is tried again in halves: the first time counts.
                if self.started == self.arrival:
                    self.started = self._monotonic()
                return True
            self._error = deadline_exceeded()
            self._done.set()
            return False

    def set_result(self, result: Result) -> None:
        """Give the waiting requests the result."""
        with self._lock:
            self._result = result
            self.finished = self._monotonic()
            self._done.set()

    def set_exception(self, error: CaptchaServiceError) -> None:
        """Give the waiting requests the error."""
        with self._lock:
            self._error = error
            self._done.set()

    def result(
        self, deadline: float, is_disconnected: Callable[[], bool] = never_disconnected
    ) -> Result:
        """Return the result.

        Args:
            deadline: Time of the clock at which to give up; each request has its own.
            is_disconnected: Whether the client of this request has disconnected. Asked while the
                task waits for the model, not at once: a short wait is not worth it.

        Raises:
            DeadlineExceeded: There was no outcome before the deadline.
            CallerLeft: The caller hung up before the model began.
            CaptchaServiceError: The task failed.
        """
        while not self._done.wait(
            max(0.0, min(deadline - self._monotonic(), DISCONNECT_CHECK_INTERVAL_S))
        ):
            if self._monotonic() >= deadline:
                raise deadline_exceeded()
            if self._is_queued() and is_disconnected():
                raise CallerLeft("The caller hung up before the model came to the image.")
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
