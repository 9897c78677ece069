"""Admission control: slots of the queue are reserved before an image is decoded.

Responsible for: counting slots, estimating the wait, rejecting what cannot be answered in time, the
states in which nothing is taken. Invariant: never more than `max_queue_size` images are admitted
and not yet answered, and every slot that was taken is given back exactly once.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Generic, Self, TypeVar

from qwen_captcha.errors import (
    DEFAULT_RETRY_S,
    Draining,
    ModelFailed,
    ModelLoading,
    QueueFull,
)
from qwen_captcha.scheduling.pending import PendingResult

# Weight of the newest batch in the moving average of seconds per item.
NEWEST_WEIGHT = 0.2

Task = TypeVar("Task")
Result = TypeVar("Result")


class ModelState(StrEnum):
    """Whether the model answers."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class AdmissionController:
    """Counts the slots of the queue and rejects what does not fit.

    Args:
        max_queue_size: Maximum admitted images: being decoded, queued or being read.
        monotonic: The clock of all deadlines, in seconds.
    """

    def __init__(self, max_queue_size: int, monotonic: Callable[[], float]) -> None:
        self._max_queue_size = max_queue_size
        self._monotonic = monotonic
        # Notified at every change; guards all of the following and the batcher's queue.
        self.changed = threading.Condition()
        self.admitted = 0
        self.decoding = 0
        self.state = ModelState.LOADING
        self.error: str | None = None
        self.draining = False
        # Called by the thread that has reserved slots, before it releases the lock.
        self.on_reserved: Callable[[], None] = lambda: None
        self._seconds_per_item = 0.0

    def set_state(self, state: ModelState, error: str | None = None) -> None:
        """Change the model's state; `error` says what is wrong."""
        with self.changed:
            self.state, self.error = state, error
            self.changed.notify_all()

    def record_latency(self, seconds_per_item: float) -> None:
        """Take one measurement of the model's speed into the moving average."""
        with self.changed:
            known = self._seconds_per_item or seconds_per_item
            self._seconds_per_item = known + NEWEST_WEIGHT * (seconds_per_item - known)

    def reserve(self, slots: int, deadline: float) -> None:
        """Reserve slots for the images of one request; none are never rejected.

        An idle controller admits everything that fits: its estimate may be stale, and no other
        request waits.

        Raises:
            ModelLoading: The model is not loaded yet.
            ModelFailed: The model is broken; only one request at a time is admitted, to find
                out whether it recovered.
            Draining: The service is shutting down.
            QueueFull: Not enough slots, or the estimated wait exceeds the deadline.
        """
        if slots == 0:
            return
        with self.changed:
            self._reject_by_state()
            if (error := self._overload(slots, deadline)) is not None:
                raise error
            self.admitted += slots
            self.decoding += slots
            self.on_reserved()

    def rejection(self, deadline: float, dispatched: int) -> QueueFull | None:
        """Return why one image would be rejected now for the load alone, None where it is not.

        An idle controller rejects nothing: dispatched requests may never reserve. The lock is not
        needed for a result that may be outdated when the caller has it.

        Args:
            deadline: Time of the clock at which it would give up.
            dispatched: Images before it whose request has not reserved its slots yet.
        """
        if self.draining or self.state is not ModelState.READY or not self.admitted:
            return None
        return self._overload(dispatched + 1, deadline)

    def mark_queued(self, slots: int) -> None:
        """Note that images are decoded: queued, or done without the queue."""
        with self.changed:
            self.decoding -= slots
            self.changed.notify_all()

    def release(self, slots: int) -> None:
        """Release slots."""
        with self.changed:
            self.admitted -= slots
            self.changed.notify_all()

    def close(self) -> None:
        """Admit nothing from now on; what is admitted is still read."""
        with self.changed:
            self.draining = True
            self.changed.notify_all()

    @property
    def drained(self) -> bool:
        """Whether the controller is closed and all that was admitted is answered."""
        return self.draining and self.admitted == 0

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Return whether all that was admitted is answered within `timeout_s`."""
        with self.changed:
            return self.changed.wait_for(lambda: self.admitted == 0, timeout_s)

    def wait_until_closed(self, timeout_s: float) -> bool:
        """Return whether the controller is closed within `timeout_s`."""
        with self.changed:
            return self.changed.wait_for(lambda: self.draining, timeout_s)

    def wait_until_loaded(self, timeout_s: float) -> bool:
        """Return whether the model has finished loading, or failed to, within `timeout_s`."""
        with self.changed:
            return self.changed.wait_for(lambda: self.state is not ModelState.LOADING, timeout_s)

    def _reject_by_state(self) -> None:
        """Raise where no work is taken at all."""
        if self.draining:
            raise Draining(
                "The service is shutting down; please retry.", retry_after_s=DEFAULT_RETRY_S
            )
        if self.state is ModelState.LOADING:
            raise ModelLoading(
                "The model is being loaded; please retry.", retry_after_s=DEFAULT_RETRY_S
            )
        if self.state is ModelState.FAILED and self.admitted > 0:
            raise ModelFailed(
                "The model is not working; please retry later.", retry_after_s=DEFAULT_RETRY_S
            )

    def _overload(self, slots: int, deadline: float) -> QueueFull | None:
        """Return what is wrong where the queue has no room, or not enough for a timely answer."""
        busy_s = self.admitted * self._seconds_per_item
        retry_after_s = max(1, math.ceil(busy_s))
        if self.admitted + slots > self._max_queue_size:
            return QueueFull("The queue is full; please retry.", retry_after_s=retry_after_s)
        wait_s = busy_s + slots * self._seconds_per_item
        if self.admitted > 0 and self._monotonic() + wait_s > deadline:
            return QueueFull(
                f"The answer would take about {math.ceil(wait_s)} s, longer than this request may "
                "take; please retry.",
                retry_after_s=retry_after_s,
            )
        return None


class Reservation(Generic[Task, Result]):
    """The right of one request to have some images read; a context manager.

    Each slot is used once, by `submit`, `attach` or `release_slot`. At the end of the context,
    unused slots are released, and submitted tasks without a result are cancelled.

    Args:
        controller: The controller that reserved the slots.
        enqueue: Puts a task with its deadline into the queue, which then owns its slot.
        slots: Number of images.
        deadline: Time of the clock at which the request gives up.
    """

    def __init__(
        self,
        controller: AdmissionController,
        enqueue: Callable[[Task, float], PendingResult[Task, Result]],
        slots: int,
        deadline: float,
    ) -> None:
        self.deadline = deadline
        self._controller = controller
        self._enqueue = enqueue
        self._unused = slots
        self._attached = 0
        self._pending: list[PendingResult[Task, Result]] = []

    def submit(self, task: Task) -> PendingResult[Task, Result]:
        """Put a task into the queue."""
        self._use_slot()
        pending = self._enqueue(task, self.deadline)
        self._pending.append(pending)
        return pending

    def attach(self, pending: PendingResult[Task, Result]) -> bool:
        """Attach to the task of another request; returns False, and uses no slot, if it is over.

        The slot stays reserved while the request waits, so that waiting requests are bounded.
        """
        if not pending.attach(self.deadline):
            return False
        self._use_slot()
        self._attached += 1
        self._pending.append(pending)
        self._controller.mark_queued(1)
        return True

    def release_slot(self) -> None:
        """Release one slot: its image needs no reading."""
        self._use_slot()
        self._controller.mark_queued(1)
        self._controller.release(1)

    def _use_slot(self) -> None:
        assert self._unused > 0, "more images than slots"
        self._unused -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pending in self._pending:
            pending.cancel()
        self._controller.mark_queued(self._unused)
        self._controller.release(self._unused + self._attached)
