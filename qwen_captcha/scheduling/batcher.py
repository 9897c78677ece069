"""MicroBatcher: many request threads, one thread that owns the model.

An engine that forms batches itself has several threads, which each hand it one item at a time.

Responsible for: the queue, reading what arrives together in one call of the model, dropping what
no request waits for any more, failing one item alone, noticing that the model broke or recovered.
Invariant: only the batcher's own threads call the model, and every admitted item gets a result or
an error, whatever the model does.

The queue is first in, first out. The clock of a batch starts when its first item arrives, and it
runs only while others are known to be on their way: admitted, but still being decoded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from qwen_captcha.errors import (
    DEFAULT_RETRY_S,
    IMAGE_FAILED,
    NO_MEMORY,
    CaptchaServiceError,
    EngineFailed,
    InternalError,
    OutOfMemory,
)
from qwen_captcha.metrics import Metrics, QueueMetrics
from qwen_captcha.scheduling.admission import (
    AdmissionController,
    ModelState,
    Reservation,
)
from qwen_captcha.scheduling.pending import PendingResult

# Items that fail one after the other, each alone, before the model counts as broken.
FAILURES_UNTIL_BROKEN = 5

Task = TypeVar("Task")
Result = TypeVar("Result")
Outcome = TypeVar("Outcome")

log = logging.getLogger(__name__)


def seconds_to_wait(
    queued: int, decoding: int, age_s: float, *, max_batch_size: int, max_delay_s: float
) -> float:
    """Return how long the first item of a batch waits for more, in seconds.

    Args:
        queued: Items in the queue, the first one included.
        decoding: Admitted items that are still being decoded.
        age_s: Seconds since the first item arrived.
        max_batch_size: Items that fill a batch.
        max_delay_s: Maximum wait of the first item.
    """
    if queued >= max_batch_size or decoding == 0:
        return 0.0
    return max(0.0, max_delay_s - age_s)


class MicroBatcher(Generic[Task, Result]):
    """Runs tasks in batches on threads of its own.

    Args:
        read: Reads a batch, one result a task, in order. Called by the batcher's threads alone.
        max_batch_size: Maximum tasks in one call of `read`.
        max_queue_delay_s: Maximum wait of a task for others to share a call with, in seconds.
        max_queue_size: Maximum admitted items: on their way, queued or being read.
        threads: Threads that call `read`; the first of them loads the model.
        monotonic: The clock of all deadlines, in seconds.
        metrics: What is measured; None discards it.
    """

    def __init__(
        self,
        read: Callable[[Sequence[Task]], list[Result]],
        *,
        max_batch_size: int,
        max_queue_delay_s: float,
        max_queue_size: int,
        threads: int = 1,
        monotonic: Callable[[], float] = time.monotonic,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._metrics = metrics or Metrics().queue
        self.admission = AdmissionController(max_queue_size, monotonic)
        self._read = read
        self._max_batch_size = max_batch_size
        self._max_queue_delay_s = max_queue_delay_s
        self._threads = threads
        self._monotonic = monotonic
        # Both guarded by `admission.changed`.
        self._queue: deque[PendingResult[Task, Result]] = deque()
        self._failures_in_a_row = 0

    def start(
        self, initialise: Callable[[], float], on_failure: Callable[[Exception], None]
    ) -> None:
        """Start the thread that owns the model.

        Args:
            initialise: Loads the model and returns the seconds that it took to read one item;
                called by the new thread.
            on_failure: Called by the new thread where `initialise` raised; then it ends.
        """
        threading.Thread(
            target=self._serve, args=(initialise, on_failure), name="model", daemon=True
        ).start()

    def reserve(self, slots: int, deadline: float) -> Reservation[Task, Result]:
        """Reserve slots for the images of one request; see `AdmissionController.reserve`."""
        self.admission.reserve(slots, deadline)
        return Reservation(self.admission, self._enqueue, slots, deadline)

    def _enqueue(self, task: Task, deadline: float) -> PendingResult[Task, Result]:
        """Put a task that has a slot into the queue."""
        pending: PendingResult[Task, Result] = PendingResult(task, deadline, self._monotonic)
        with self.admission.changed:
            self._queue.append(pending)
            self._metrics.depth.set(len(self._queue))
            self.admission.mark_queued(1)
        return pending

    def _serve(
        self, initialise: Callable[[], float], on_failure: Callable[[Exception], None]
    ) -> None:
        """Load the model, then read; the batcher's first thread."""
        seconds_per_item = self._attempt(initialise)
        if isinstance(seconds_per_item, Exception):
            self.admission.set_state(ModelState.FAILED, "The model could not be loaded.")
            on_failure(seconds_per_item)
            return
        self.admission.record_latency(seconds_per_item / self._threads)
        self.admission.set_state(ModelState.READY)
        log.info("Ready: reading one captcha takes about %.2f s.", seconds_per_item)
        for number in range(1, self._threads):
            threading.Thread(target=self._read_batches, name=f"model-{number}", daemon=True).start()
        self._read_batches()

    def _read_batches(self) -> None:
        """Read batches until the service has drained; each of the batcher's threads."""
        while batch := self._next_batch():
            self._run(batch)
            # Images are large, and the next batch may be long in coming.
            del batch

    def _next_batch(self) -> list[PendingResult[Task, Result]]:
        """Wait for a batch and take it from the queue; empty once the service has drained."""
        with self.admission.changed:
            while not self.admission.drained and (wait_s := self._wait_s()) != 0:
                self.admission.changed.wait(wait_s)
            size = min(len(self._queue), self._max_batch_size)
            batch = [self._queue.popleft() for _ in range(size)]
            self._metrics.depth.set(len(self._queue))
            return batch

    def _wait_s(self) -> float | None:
        """Return for how long the head of the queue waits for more, None where there is none."""
        if not self._queue:
            return None
        return seconds_to_wait(
            len(self._queue),
            self.admission.decoding,
            self._monotonic() - self._queue[0].arrival,
            max_batch_size=self._max_batch_size,
            max_delay_s=self._max_queue_delay_s,
        )

    def _run(self, batch: list[PendingResult[Task, Result]]) -> None:
        """Read a batch; where that fails, halve it until the bad items are alone."""
        batch = self._start(batch)
        if not batch:
            return
        start = self._monotonic()
        results = self._attempt(lambda: self._read_checked([pending.task for pending in batch]))
        seconds = self._monotonic() - start
        self._metrics.batch_size.observe(len(batch))
        self._metrics.inference_seconds.observe(seconds)
        if not isinstance(results, Exception):
            self.admission.record_latency(seconds / len(batch) / self._threads)
            self._succeed(batch, results)
        elif len(batch) == 1:
            self._fail(batch[0], results)
        else:
            log.warning("Reading %d images at once failed: halving the batch.", len(batch))
            # Its traceback would keep the failed batch's tensors in memory.
            del results
            middle = len(batch) // 2
            self._run(batch[:middle])
            self._run(batch[middle:])

    def _read_checked(self, tasks: list[Task]) -> list[Result]:
        """Read a batch; raises where the results are not one a task."""
        results = self._read(tasks)
        if len(results) != len(tasks):
            raise RuntimeError(f"{len(tasks)} tasks gave {len(results)} results")
        return results

    def _start(self, batch: list[PendingResult[Task, Result]]) -> list[PendingResult[Task, Result]]:
        """Drop what no request waits for any more; returns the others."""
        wanted = [pending for pending in batch if pending.start()]
        self.admission.release(len(batch) - len(wanted))
        return wanted

    def _succeed(self, batch: list[PendingResult[Task, Result]], results: list[Result]) -> None:
        """Hand out the results of a batch."""
        with self.admission.changed:
            self._failures_in_a_row = 0
            if self.admission.state is ModelState.FAILED:
                log.warning("The model works again.")
                self.admission.set_state(ModelState.READY)
        for pending, result in zip(batch, results, strict=True):
            pending.set_result(result)
        self.admission.release(len(batch))

    def _fail(self, pending: PendingResult[Task, Result], error: Exception) -> None:
        """Hand out the failure of an item that was read alone."""
        # Any other error with a status of its own is the image's fault.
        if isinstance(error, EngineFailed) or not isinstance(error, CaptchaServiceError):
            self._count_failure()
        pending.set_exception(_as_service_error(error))
        self.admission.release(1)

    def _count_failure(self) -> None:
        """Take one failure into account; after several in a row the model counts as broken."""
        with self.admission.changed:
            self._failures_in_a_row += 1
            if (
                self._failures_in_a_row >= FAILURES_UNTIL_BROKEN
                and self.admission.state is ModelState.READY
            ):
                message = f"The last {self._failures_in_a_row} images failed inside the model."
                log.error(message)
                self.admission.set_state(ModelState.FAILED, message)

    def _attempt(self, call: Callable[[], Outcome]) -> Outcome | Exception:
        """Call the model: whatever it raises fails its tasks, never the thread that owns it."""
        try:
            return call()
        except Exception as error:
            return error


def _as_service_error(error: Exception) -> CaptchaServiceError:
    """Return what the caller of a failed item is told."""
    if isinstance(error, CaptchaServiceError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory(NO_MEMORY, retry_after_s=DEFAULT_RETRY_S)
    log.error("Reading an image failed.", exc_info=error)
    return InternalError(IMAGE_FAILED)
