"""Who may have images read: the gate before the queue, decided before an image is decoded.

Responsible for: counting places, estimating the wait, refusing what cannot be answered in time, the
states in which nothing is taken. Invariant: never more than `max_queue_size` images are admitted
and not yet answered, and every place that was taken is given back exactly once.
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
from qwen_captcha.scheduling.pending import Ticket

# Weight of the newest batch in the moving average of seconds per item.
NEWEST_WEIGHT = 0.2

Task = TypeVar("Task")
Result = TypeVar("Result")


class ModelState(StrEnum):
    """Whether the model answers."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class Gate:
    """Counts the places in the queue and refuses what does not fit.

    Args:
        max_queue_size: Most admitted images: being decoded, queued or being read.
        monotonic: The clock of all deadlines, in seconds.
    """

    def __init__(self, max_queue_size: int, monotonic: Callable[[], float]) -> None:
        self._max_queue_size = max_queue_size
        self._monotonic = monotonic
        # Notified at every change; guards all of the following and the batcher's queue.
        self.changed = threading.Condition()
        self.admitted = 0
        self.on_their_way = 0
        self.state = ModelState.LOADING
        self.error: str | None = None
        self.draining = False
        # Called by the thread that has taken places, before it gives back the lock.
        self.on_taken: Callable[[], None] = lambda: None
        self._seconds_per_item = 0.0

    def enter(self, state: ModelState, error: str | None = None) -> None:
        """Change the model's state; `error` says what is wrong."""
        with self.changed:
            self.state, self.error = state, error
            self.changed.notify_all()

    def learn(self, seconds_per_item: float) -> None:
        """Take one measurement of the model's speed into the moving average."""
        with self.changed:
            known = self._seconds_per_item or seconds_per_item
            self._seconds_per_item = known + NEWEST_WEIGHT * (seconds_per_item - known)

    def take(self, places: int, deadline: float) -> None:
        """Take places for the images of one request; without any there is nothing to refuse.

        An idle gate lets everything through that fits: its estimate may be stale, and nobody
        else waits.

        Raises:
            ModelLoading: The model is not loaded yet.
            ModelFailed: The model is broken; only one request at a time is let through, to find
                out whether it recovered.
            Draining: The service is shutting down.
            QueueFull: Not enough places, or the estimated wait exceeds the deadline.
        """
        if places == 0:
            return
        with self.changed:
            self._refuse_by_state()
            if (error := self._overload(places, deadline)) is not None:
                raise error
            self.admitted += places
            self.on_their_way += places
            self.on_taken()

    def refusal(self, deadline: float, coming: int) -> QueueFull | None:
        """Return why one image would be refused now for the load alone, None where it is not.

        An idle gate refuses nothing: what is coming may never arrive. The lock is not needed for
        what may be outdated by the time it is heard.

        Args:
            deadline: Time of the clock at which it would give up.
            coming: Images before it that are known of and have not taken their places yet.
        """
        if self.draining or self.state is not ModelState.READY or not self.admitted:
            return None
        return self._overload(coming + 1, deadline)

    def arrive(self, places: int) -> None:
        """Say that images are not on their way any more: queued, or done without the queue."""
        with self.changed:
            self.on_their_way -= places
            self.changed.notify_all()

    def release(self, places: int) -> None:
        """Give places back."""
        with self.changed:
            self.admitted -= places
            self.changed.notify_all()

    def close(self) -> None:
        """Let nothing through from now on; what is admitted is still read."""
        with self.changed:
            self.draining = True
            self.changed.notify_all()

    @property
    def drained(self) -> bool:
        """Whether the gate is closed and all that was admitted is answered."""
        return self.draining and self.admitted == 0

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Return whether all that was admitted is answered within `timeout_s`."""
        with self.changed:
            return self.changed.wait_for(lambda: self.admitted == 0, timeout_s)

    def wait_until_closed(self, timeout_s: float) -> bool:
        """Return whether nothing is let through any more within `timeout_s`."""
        with self.changed:
            return self.changed.wait_for(lambda: self.draining, timeout_s)

    def wait_until_loaded(self, timeout_s: float) -> bool:
        """Return whether the model has finished loading, or failed to, within `timeout_s`."""
        with self.changed:
            return self.changed.wait_for(lambda: self.state is not ModelState.LOADING, timeout_s)

    def _refuse_by_state(self) -> None:
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

    def _overload(self, places: int, deadline: float) -> QueueFull | None:
        """Return what is wrong where the queue has no room, or not enough for a timely answer."""
        busy_s = self.admitted * self._seconds_per_item
        retry_after_s = max(1, math.ceil(busy_s))
        if self.admitted + places > self._max_queue_size:
            return QueueFull("The queue is full; please retry.", retry_after_s=retry_after_s)
        wait_s = busy_s + places * self._seconds_per_item
        if self.admitted > 0 and self._monotonic() + wait_s > deadline:
            return QueueFull(
                f"The answer would take about {math.ceil(wait_s)} s, longer than this request may "
                "take; please retry.",
                retry_after_s=retry_after_s,
            )
        return None


class Admission(Generic[Task, Result]):
    """The right of one request to have some images read; a context manager.

    Each place is used once, by `submit`, `join` or `skip`. Leaving gives back the places that
    were not used, and whatever was submitted and is not answered is dropped.

    Args:
        gate: The gate that the places were taken from.
        enqueue: Puts a task with its deadline into the queue, which then owns its place.
        places: Number of images.
        deadline: Time of the clock at which the request gives up.
    """

    def __init__(
        self,
        gate: Gate,
        enqueue: Callable[[Task, float], Ticket[Task, Result]],
        places: int,
        deadline: float,
    ) -> None:
        self.deadline = deadline
        self._gate = gate
        self._enqueue = enqueue
        self._unused = places
        self._joined = 0
        self._tickets: list[Ticket[Task, Result]] = []

    def submit(self, task: Task) -> Ticket[Task, Result]:
        """Put a task into the queue."""
        self._use_place()
        ticket = self._enqueue(task, self.deadline)
        self._tickets.append(ticket)
        return ticket

    def join(self, ticket: Ticket[Task, Result]) -> bool:
        """Wait for the task of another request; returns False, and uses no place, if it is over.

        The place stays taken while the request waits, so that waiting requests are bounded.
        """
        if not ticket.share(self.deadline):
            return False
        self._use_place()
        self._joined += 1
        self._tickets.append(ticket)
        self._gate.arrive(1)
        return True

    def skip(self) -> None:
        """Give one place back: its image needs no reading."""
        self._use_place()
        self._gate.arrive(1)
        self._gate.release(1)

    def _use_place(self) -> None:
        assert self._unused > 0, "more images than places"
        self._unused -= 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for ticket in self._tickets:
            ticket.leave()
        self._gate.arrive(self._unused)
        self._gate.release(self._unused + self._joined)
