"""The queue of one model: reserved slots, queued tasks and the state of the model.

    with queue.reserve(slots=1, deadline=deadline) as reservation:
        pending = reservation.submit(task)
        result = pending.result(deadline)

Request threads reserve slots and submit tasks. The batcher's threads take batches and release
slots. The lock is private to this module.

The queue is first in, first out. A batch waits for more tasks only while admitted images are still
being decoded, and no longer than `max_queue_delay_s` after its first task arrived.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from types import TracebackType
from typing import Generic, Self, TypeVar

from qwen_captcha.errors import (
    DEFAULT_RETRY_S,
    Draining,
    ModelFailed,
    ModelLoading,
)
from qwen_captcha.metrics import Metrics, QueueMetrics
from qwen_captcha.scheduling.admission import AdmissionController
from qwen_captcha.scheduling.pending import PendingResult

# Consecutive failures of single tasks after which the state of the model is FAILED.
FAILURES_UNTIL_BROKEN = 5

Task = TypeVar("Task")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class ModelState(StrEnum):
    """Whether the model answers."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class RequestQueue(Generic[Task, Result]):
    """Slots, queued tasks and the state of one model; thread-safe.

    Args:
        max_queue_size: Maximum admitted images: being decoded, queued or being read.
        max_batch_size: Maximum tasks of a batch.
        max_queue_delay_s: Maximum wait of a task for others to share a batch with, in seconds.
        monotonic: The clock of all deadlines, in seconds.
        metrics: Metrics of this queue; None discards them.
    """

    def __init__(
        self,
        *,
        max_queue_size: int,
        max_batch_size: int,
        max_queue_delay_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._max_batch_size = max_batch_size
        self._max_queue_delay_s = max_queue_delay_s
        self._monotonic = monotonic
        self._metrics = metrics or Metrics().queue
        # Notified at every change; guards all of the following.
        self._changed = threading.Condition()
        self._admission = AdmissionController(max_queue_size, monotonic)
        self._tasks: deque[PendingResult[Task, Result]] = deque()
        self._state = ModelState.LOADING
        self._error: str | None = None
        self._failures_in_a_row = 0
        self._draining = False

    @property
    def state(self) -> ModelState:
        """Whether the model answers."""
        return self._state

    @property
    def error(self) -> str | None:
        """One sentence about the failure of the model, None where it has not failed."""
        return self._error

    @property
    def draining(self) -> bool:
        """Whether the queue is closed."""
        return self._draining

    @property
    def admitted(self) -> int:
        """Slots that are reserved and not released."""
        return self._admission.admitted

    @property
    def decoding(self) -> int:
        """Admitted images that are not in the queue yet."""
        return self._admission.decoding

    def set_state(self, state: ModelState, error: str | None = None) -> bool:
        """Set the state of the model; return whether it changed.

        Args:
            state: The new state.
            error: One sentence about the failure.
        """
        with self._changed:
            if state is self._state:
                return False
            self._state, self._error = state, error
            self._changed.notify_all()
            return True

    def record_latency(self, seconds_per_item: float) -> None:
        """Add one measurement of the model's speed to the estimate of the wait."""
        with self._changed:
            self._admission.record_latency(seconds_per_item)

    def record_success(self) -> None:
        """Note that the model has read a batch."""
        with self._changed:
            self._failures_in_a_row = 0
            if self.set_state(ModelState.READY):
                log.warning("The model works again.")

    def record_failure(self) -> None:
        """Note that the model has failed with one task.

        After `FAILURES_UNTIL_BROKEN` in a row the state is FAILED.
        """
        with self._changed:
            self._failures_in_a_row += 1
            if self._failures_in_a_row < FAILURES_UNTIL_BROKEN:
                return
            message = f"The last {self._failures_in_a_row} images failed inside the model."
            if self.set_state(ModelState.FAILED, message):
                log.error(message)

    def reserve(self, slots: int, deadline: float) -> Reservation[Task, Result]:
        """Reserve slots for the images of one request; 0 slots are never rejected.

        Raises:
            ModelLoading: The model is not loaded yet.
            ModelFailed: The model is broken; only one request at a time is admitted, to find
                out whether it recovered.
            Draining: The service is shutting down.
            QueueFull: Not enough slots, or the estimated wait exceeds the deadline.
        """
        if slots > 0:
            with self._changed:
                self._reject_by_state()
                self._admission.reserve(slots, deadline)
        return Reservation(self, slots, deadline)

    def reject_overload(self, deadline: float) -> None:
        """Reject one image that `reserve` would reject now because of the load.

        The lock is not taken: the result may be outdated anyway when the caller uses it.

        Args:
            deadline: Time of the clock at which the request of the image times out.

        Raises:
            QueueFull: Not enough slots, or the estimated wait exceeds the deadline.
        """
        if self._draining or self._state is not ModelState.READY:
            return
        if (error := self._admission.rejection(1, deadline)) is not None:
            raise error

    def enqueue(self, task: Task, deadline: float) -> PendingResult[Task, Result]:
        """Put a task that has a slot into the queue, which owns the slot from now on."""
        pending: PendingResult[Task, Result] = PendingResult(task, deadline, self._monotonic)
        with self._changed:
            self._tasks.append(pending)
            self._metrics.depth.set(len(self._tasks))
            self.mark_queued(1)
        return pending

    def mark_queued(self, slots: int) -> None:
        """Note that images are decoded: queued, or done without the queue."""
        with self._changed:
            self._admission.mark_queued(slots)
            self._changed.notify_all()

    def release(self, slots: int) -> None:
        """Release slots."""
        with self._changed:
            self._admission.release(slots)
            self._changed.notify_all()

    def next_batch(self) -> list[PendingResult[Task, Result]]:
        """Wait for a batch and take it from the queue; empty once the queue has drained."""
        with self._changed:
            while not self._drained and (wait_s := self._wait_s()) != 0:
                self._changed.wait(wait_s)
            size = min(len(self._tasks), self._max_batch_size)
            batch = [self._tasks.popleft() for _ in range(size)]
            self._metrics.depth.set(len(self._tasks))
            return batch

    def close(self) -> None:
        """Reject new requests from now on; admitted images are still read."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def wait_until_loaded(self, timeout_s: float) -> bool:
        """Return whether the model has finished loading, or failed to, within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state is not ModelState.LOADING, timeout_s)

    def wait_until_closed(self, timeout_s: float) -> bool:
        """Return whether the queue is closed within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._draining, timeout_s)

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Return whether all admitted images are answered within `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: self.admitted == 0, timeout_s)

    @property
    def _drained(self) -> bool:
        """Whether the queue is closed and all admitted images are answered."""
        return self._draining and self.admitted == 0

    def _wait_s(self) -> float | None:
        """Return how long the first task of the queue waits for more, None where there is none."""
        if not self._tasks:
            return None
        return seconds_to_wait(
            len(self._tasks),
            self.decoding,
            self._monotonic() - self._tasks[0].arrival,
            max_batch_size=self._max_batch_size,
            max_delay_s=self._max_queue_delay_s,
        )

    def _reject_by_state(self) -> None:
        """Reject a request because the service drains or the model does not work."""
        if self._draining:
            raise Draining(
                "The service is shutting down; please retry.", retry_after_s=DEFAULT_RETRY_S
            )
        if self._state is ModelState.LOADING:
            raise ModelLoading(
                "The model is being loaded; please retry.", retry_after_s=DEFAULT_RETRY_S
            )
        if self._state is ModelState.FAILED and self.admitted > 0:
            raise ModelFailed(
                "The model is not working; please retry later.", retry_after_s=DEFAULT_RETRY_S
            )


class Reservation(Generic[Task, Result]):
    """The slots of one request; a context manager.

    Each slot is used once, by `submit`, `attach` or `release_slot`. At the end of the context,
    unused slots are released, and submitted tasks without a result are cancelled.

    Args:
        queue: The queue that reserved the slots.
        slots: Number of images.
        deadline: Time of the clock at which the request times out.
    """

    def __init__(self, queue: RequestQueue[Task, Result], slots: int, deadline: float) -> None:
        self.deadline = deadline
        self._queue = queue
        self._unused = slots
        self._attached = 0
        self._pending: list[PendingResult[Task, Result]] = []

    def submit(self, task: Task) -> PendingResult[Task, Result]:
        """Put a task into the queue."""
        self._use_slot()
        pending = self._queue.enqueue(task, self.deadline)
        self._pending.append(pending)
        return pending

    def attach(self, pending: PendingResult[Task, Result]) -> bool:
        """Attach to the task of another request; return False, and use no slot, if it is finished.

        The slot stays reserved while the request waits, so that waiting requests are bounded.
        """
        if not pending.attach(self.deadline):
            return False
        self._use_slot()
        self._attached += 1
        self._pending.append(pending)
        self._queue.mark_queued(1)
        return True

    def release_slot(self) -> None:
        """Release one slot: its image needs no reading."""
        self._use_slot()
        self._queue.mark_queued(1)
        self._queue.release(1)

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
        self._queue.mark_queued(self._unused)
        self._queue.release(self._unused + self._attached)


def seconds_to_wait(
    queued: int, decoding: int, age_s: float, *, max_batch_size: int, max_delay_s: float
) -> float:
    """Return how long the first task of a batch waits for more, in seconds.

    Args:
        queued: Tasks in the queue, the first one included.
        decoding: Admitted images that are still being decoded.
        age_s: Seconds since the first task arrived.
        max_batch_size: Tasks that fill a batch.
        max_delay_s: Maximum wait of the first task.
    """
    if queued >= max_batch_size or decoding == 0:
        return 0.0
    return max(0.0, max_delay_s - age_s)
