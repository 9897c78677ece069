"""Collection of answered images: a bounded queue, and one thread that writes.

An answer never waits for the disk and never fails with it. An item that does not fit into the queue
is dropped and counted. Feedback is on disk when `feedback` returns.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qwen_captcha.collecting.archive import CollectedAnswer, Feedback, ImageArchive, StoreResult
from qwen_captcha.collecting.labels import LabelsError
from qwen_captcha.errors import DEFAULT_RETRY_S, CaptchaServiceError, ServiceUnavailable
from qwen_captcha.metrics import Metrics
from qwen_captcha.recognition.answer import Answer
from qwen_captcha.recognition.options import Kind, Options
from qwen_captcha.settings import Settings, SettingsError

MAX_QUEUE_LENGTH = 256
MAX_QUEUE_BYTES = 64 * 1024 * 1024
# Items that one transaction writes.
MAX_BATCH_SIZE = 32
# Maximum seconds of writing the queue when the process ends.
CLOSE_TIMEOUT_S = 5.0
FAILURES = (OSError, sqlite3.Error, LabelsError)
NOT_STORED = "The feedback cannot be stored now; please retry."

log = logging.getLogger(__name__)


class Archive(Protocol):
    """The destination of answers and feedback."""

    def keep(self, answers: list[CollectedAnswer]) -> StoreResult:
        """Write answers."""

    def record(self, feedback: list[Feedback]) -> list[CaptchaServiceError | None]:
        """Write feedback; return for each item None, or the error of one that cannot be written."""


@dataclass(frozen=True, slots=True, eq=False)
class _PendingFeedback:
    """Feedback in the queue, and its result: None once written, or the error."""

    feedback: Feedback
    result: Future[CaptchaServiceError | None]


class Collector:
    """Writes answers and feedback to the archive from a thread of its own; thread-safe.

    Args:
        archive: The archive; only the thread that `start` starts uses it.
        metrics: Metrics of the service, with counters of the outcomes.
    """

    def __init__(self, archive: Archive, metrics: Metrics) -> None:
        self._archive = archive
        self._collected = metrics.collected
        self._feedback = metrics.feedback
        # In one queue, so that feedback is written after its answer.
        self._queue: deque[CollectedAnswer | _PendingFeedback] = deque()
        self._queue_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread.start()

    def close(self) -> None:
        """Accept no more items, and wait at most `CLOSE_TIMEOUT_S` until the queue is written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(CLOSE_TIMEOUT_S)

    def keep(
        self, request_id: str, data: bytes, answer: Answer, options: Options, model: str
    ) -> None:
        """Queue an image with its answer, without waiting.

        Answers to the caller's own prompt, to a question, or with the option `colors` are not
        queued: their text may be only a part of what the image shows.
        """
        is_partial = options.prompt is not None or options.kind is Kind.QUESTION or options.colors
        if is_partial:
            return
        collected = CollectedAnswer(
            request_id, data, answer.text, answer.confidence, answer.raw_response, model
        )
        with self._changed:
            if self._is_full(len(data)):
                self._collected.labels("dropped").inc()
                return
            self._queue.append(collected)
            self._queue_bytes += len(data)
            self._changed.notify()

    def feedback(self, feedback: Feedback, timeout_s: float) -> None:
        """Write the feedback on an answer, after the answers that were queued before.

        Raises:
            UnknownRequest: No image is stored for the answer.
            BadRequest: The feedback contradicts the answer.
            ServiceUnavailable: The feedback cannot be written now.
        """
        pending = _PendingFeedback(feedback, Future())
        with self._changed:
            if self._is_full(0):
                raise ServiceUnavailable(NOT_STORED, retry_after_s=DEFAULT_RETRY_S)
            self._queue.append(pending)
            self._changed.notify()
        try:
            error = pending.result.result(timeout_s)
        except TimeoutError:
            raise ServiceUnavailable(NOT_STORED, retry_after_s=DEFAULT_RETRY_S) from None
        if error is not None:
            raise error
        self._feedback.labels("correct" if feedback.correct else "wrong").inc()

    def _is_full(self, further_bytes: int) -> bool:
        return (
            self._closing
            or len(self._queue) >= MAX_QUEUE_LENGTH
            or self._queue_bytes + further_bytes > MAX_QUEUE_BYTES
        )

    def _run(self) -> None:
        """Write until the collector is closed and its queue is empty."""
        while items := self._next_items():
            answers = [item for item in items if isinstance(item, CollectedAnswer)]
            feedback = [item for item in items if isinstance(item, _PendingFeedback)]
            if answers:
                self._keep(answers)
            if feedback:
                self._record(feedback)

    def _next_items(self) -> list[CollectedAnswer | _PendingFeedback]:
        """Wait for items; return an empty list once the collector is closed and its queue empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._queue)
            size = min(MAX_BATCH_SIZE, len(self._queue))
            items = [self._queue.popleft() for _ in range(size)]
            self._queue_bytes -= sum(
                len(item.data) for item in items if isinstance(item, CollectedAnswer)
            )
        return items

    def _keep(self, answers: list[CollectedAnswer]) -> None:
        try:
            stored = self._archive.keep(answers)
        except Exception as error:
            self._collected.labels("failed").inc(len(answers))
            self._note_failure(error)
            return
        self._collected.labels("kept").inc(stored.kept)
        self._collected.labels("removed").inc(stored.removed)
        self._collected.labels("rejected").inc(stored.rejected)
        self._note_success()

    def _record(self, feedback: list[_PendingFeedback]) -> None:
        try:
            errors = self._archive.record([pending.feedback for pending in feedback])
        except Exception as error:
            self._note_failure(error)
            failure = ServiceUnavailable(NOT_STORED, retry_after_s=DEFAULT_RETRY_S)
            errors = [failure for _ in feedback]
        else:
            self._note_success()
        for pending, outcome in zip(feedback, errors, strict=True):
            pending.result.set_result(outcome)

    def _note_failure(self, error: Exception) -> None:
        """Log a failure, unless the previous write failed too."""
        if not self._failing:
            log.warning(
                "Images cannot be collected: %s. Answers are not affected; "
                "check COLLECT_DIR and its disk.",
                error,
            )
        self._failing = True

    def _note_success(self) -> None:
        if self._failing:
            log.info("Images are collected again.")
        self._failing = False


def create_collector(settings: Settings, metrics: Metrics) -> Collector | None:
    """Return the collector for these settings; None where nothing is collected.

    Raises:
        SettingsError: `COLLECT_DIR` cannot be used.
    """
    if not settings.collect_dir:
        return None
    folder = Path(settings.collect_dir).expanduser()
    try:
        archive = ImageArchive(folder, settings.collect_max_images, settings.collect_max_bytes)
    except FAILURES as error:
        raise SettingsError(
            f"COLLECT_DIR={settings.collect_dir} cannot be used: it must be a folder that this "
            f"process may write ({error})."
        ) from error
    return Collector(archive, metrics)
