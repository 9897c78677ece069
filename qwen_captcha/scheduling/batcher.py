"""The loop between a queue and the model: take a batch, read it, set the results.

Only the batcher's threads call the model. One thread owns a model in this process; an engine that
forms batches itself has several threads, which each read one task at a time. Every task that was
queued gets a result or an error.
"""

from __future__ import annotations

import logging
import threading
import time
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
from qwen_captcha.scheduling.pending import PendingResult
from qwen_captcha.scheduling.request_queue import ModelState, RequestQueue

Task = TypeVar("Task")
Result = TypeVar("Result")
Outcome = TypeVar("Outcome")

log = logging.getLogger(__name__)


class MicroBatcher(Generic[Task, Result]):
    """Reads the tasks of a queue in batches, on threads of its own.

    Args:
        queue: The queue; the batcher records speed, failures and the state of the model in it.
        read: Reads a batch, one result a task, in order. Called by the batcher's threads alone.
        threads: Threads that call `read`; the first of them loads the model.
        monotonic: The clock, in seconds.
        metrics: Metrics of the batches; None discards them.
    """

    def __init__(
        self,
        queue: RequestQueue[Task, Result],
        read: Callable[[Sequence[Task]], list[Result]],
        *,
        threads: int = 1,
        monotonic: Callable[[], float] = time.monotonic,
        metrics: QueueMetrics | None = None,
    ) -> None:
        self._queue = queue
        self._read = read
        self._threads = threads
        self._monotonic = monotonic
        self._metrics = metrics or Metrics().queue

    def start(
        self, initialise: Callable[[], float], on_failure: Callable[[Exception], None]
    ) -> None:
        """Start the thread that owns the model.

        Args:
            initialise: Loads the model and returns the seconds of reading one task; called by the
                new thread.
            on_failure: Called by the new thread where `initialise` raised; then the thread ends.
        """
        threading.Thread(
            target=self._serve, args=(initialise, on_failure), name="model", daemon=True
        ).start()

    def _serve(
        self, initialise: Callable[[], float], on_failure: Callable[[Exception], None]
    ) -> None:
        """Load the model, then read; the batcher's first thread."""
        seconds_per_item = self._attempt(initialise)
        if isinstance(seconds_per_item, Exception):
            self._queue.set_state(ModelState.FAILED, "The model could not be loaded.")
            on_failure(seconds_per_item)
            return
        self._queue.record_latency(seconds_per_item / self._threads)
        self._queue.set_state(ModelState.READY)
        log.info("Ready: reading one captcha takes about %.2f s.", seconds_per_item)
        for number in range(1, self._threads):
            threading.Thread(target=self._read_batches, name=f"model-{number}", daemon=True).start()
        self._read_batches()

    def _read_batches(self) -> None:
        """Read batches until the queue has drained; each of the batcher's threads."""
        while batch := self._queue.next_batch():
            self._run(batch)
            # Release the images, which are large, before waiting for the next batch.
            del batch

    def _run(self, batch: list[PendingResult[Task, Result]]) -> None:
        """Read a batch; where that fails, halve it until the failing tasks are alone."""
        batch = self._start(batch)
        if not batch:
            return
        start = self._monotonic()
        results = self._attempt(lambda: self._read_checked([pending.task for pending in batch]))
        seconds = self._monotonic() - start
        self._metrics.batch_size.observe(len(batch))
        self._metrics.inference_seconds.observe(seconds)
        if not isinstance(results, Exception):
            self._queue.record_latency(seconds / len(batch) / self._threads)
            self._succeed(batch, results)
        elif len(batch) == 1:
            self._fail(batch[0], results)
        else:
            log.warning(
                "Reading %d images in one batch failed (%r); each half is tried alone.",
                len(batch),
                results,
            )
            # The traceback refers to the failed batch's tensors, which would stay in memory.
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
        """Drop the tasks that no request waits for any more; return the others."""
        awaited = [pending for pending in batch if pending.start()]
        self._queue.release(len(batch) - len(awaited))
        return awaited

    def _succeed(self, batch: list[PendingResult[Task, Result]], results: list[Result]) -> None:
        """Set the results of a batch, and release its slots."""
        self._queue.record_success()
        for pending, result in zip(batch, results, strict=True):
            pending.set_result(result)
        self._queue.release(len(batch))

    def _fail(self, pending: PendingResult[Task, Result], error: Exception) -> None:
        """Set the error of a task that was read alone, and release its slot."""
        # Any other error with a status of its own is the image's fault.
        if isinstance(error, EngineFailed) or not isinstance(error, CaptchaServiceError):
            self._queue.record_failure()
        # Release the slot first: a failed model admits one image at a time, and the client may send
        # the next one as soon as it has this error.
        self._queue.release(1)
        pending.set_exception(_as_service_error(error))

    def _attempt(self, call: Callable[[], Outcome]) -> Outcome | Exception:
        """Call the model; return its exception, which fails its tasks and not the thread."""
        try:
            return call()
        except Exception as error:
            return error


def _as_service_error(error: Exception) -> CaptchaServiceError:
    """Return the error of a failed task for its requests."""
    if isinstance(error, CaptchaServiceError):
        return error
    if isinstance(error, MemoryError):
        return OutOfMemory(NO_MEMORY, retry_after_s=DEFAULT_RETRY_S)
    log.error("Reading an image failed.", exc_info=error)
    return InternalError(IMAGE_FAILED)
