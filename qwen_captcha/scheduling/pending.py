"""Ticket: one task on its way through the queue, and those who wait for its result.

Responsible for: handing one outcome from the thread that owns the model to one or more request
threads; knowing whether anybody still waits. Invariant: a ticket is settled exactly once, and
whoever shared it in time gets that outcome.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from qwen_captcha.errors import CallerLeft, CaptchaServiceError, DeadlineExceeded

# How often a waiting request looks whether its caller is still there.
LOOK_INTERVAL_S = 1.0

Task = TypeVar("Task")
Result = TypeVar("Result")


def stays() -> bool:
    """Return that nobody has left: the answer where that cannot be known."""
    return False


class Ticket(Generic[Task, Result]):
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
        self.started = self.settled = self.arrival
        self._monotonic = monotonic
        self._done = threading.Event()
        self._lock = threading.Lock()
        # All of the following is guarded by `_lock`.
        self._deadline = deadline
        self._waiters = 1
        self._claimed = False
        self._result: Result | None = None
        self._error: CaptchaServiceError | None = None

    def share(self, deadline: float) -> bool:
        """Let one more request wait; returns False where the outcome is already decided."""
        with self._lock:
            if self._done.is_set() or self._waiters == 0:
                return False
            self._waiters += 1
            self._deadline = max(self._deadline, deadline)
            return True

    def leave(self) -> None:
        """Say that one request does not wait any more."""
        with self._lock:
            self._waiters -= 1

    def claim(self) -> bool:
        """Return whether somebody still waits, in time; settles the ticket where nobody does."""
        with self._lock:
            if self._waiters > 0 and self._monotonic() < self._deadline:
                self._claimed = True
                # A batch that failed is tried again in halves: the first time counts.
                if self.started == self.arrival:
                    self.started = self._monotonic()
                return True
            self._error = late()
            self._done.set()
            return False

    def succeed(self, result: Result) -> None:
        """Give the waiting requests the result."""
        with self._lock:
            self._result = result
            self.settled = self._monotonic()
            self._done.set()

    def fail(self, error: CaptchaServiceError) -> None:
        """Give the waiting requests the error."""
        with self._lock:
            self._error = error
            self._done.set()

    def wait(self, deadline: float, has_left: Callable[[], bool] = stays) -> Result:
        """Return the result.

        Args:
            deadline: Time of the clock at which to give up; each request has its own.
            has_left: Whether the caller of this request has hung up. Asked while the task waits
                for the model, not at once: a short wait is not worth it.

        Raises:
            DeadlineExceeded: There was no outcome before the deadline.
            CallerLeft: The caller hung up before the model began.
            CaptchaServiceError: The task failed.
        """
        while not self._done.wait(max(0.0, min(deadline - self._monotonic(), LOOK_INTERVAL_S))):
            if self._monotonic() >= deadline:
                raise late()
            if self._is_queued() and has_left():
                raise CallerLeft("The caller hung up before the model came to the image.")
        if self._error is not None:
            # Each request raises its own copy: a raised exception grows its thread's traceback.
            raise type(self._error)(self._error.message, retry_after_s=self._error.retry_after_s)
        assert self._result is not None
        return self._result

    def _is_queued(self) -> bool:
        """Return whether the model has not begun with the task."""
        with self._lock:
            return not self._claimed


def late() -> DeadlineExceeded:
    """Return the error of a request whose deadline passed."""
    return DeadlineExceeded("The answer was not ready in time; please retry.", retry_after_s=1)
