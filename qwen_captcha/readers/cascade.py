"""A second reader for images that the first one reads with a low confidence.

An opinion is the second reader's answer to an image. A failure of the second reader fails no
request, and no request waits for it beyond its deadline, nor longer than OCR_TIMEOUT_S. A missing
opinion is counted, and the first reader's answer is returned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from types import TracebackType
from typing import Self

from PIL import Image

from qwen_captcha.errors import (
    CaptchaServiceError,
    ClientDisconnected,
    DeadlineExceeded,
    load_failure,
)
from qwen_captcha.metrics import CascadeMetrics
from qwen_captcha.readers.reader import Key, Pending, Reader
from qwen_captcha.recognition.answer import Answer, answer_from_output
from qwen_captcha.recognition.options import Options
from qwen_captcha.recognition.plan import RecognitionPlan
from qwen_captcha.recognition.second_opinion import agree, is_beyond, likelier
from qwen_captcha.scheduling.request_queue import ModelState

# A day: enough to download and load the largest model.
LOAD_TIMEOUT_S = 86_400.0
# Share of OCR_TIMEOUT_S. A reader that does not answer within it is marked as failed; one that had
# less time may only be slow.
STALLED_SHARE = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opinion:
    """A second reading that was requested.

    Attributes:
        pending: The pending result; None where the second reader rejected the image.
        requested: Time of the clock at which it was requested.
        deadline: Time of the clock at which the wait for it ends.
        alone: Only the second reader can do what the request asks for.
    """

    pending: Pending | None
    requested: float
    deadline: float
    alone: bool


class Cascade:
    """Two readers and the confidence below which the second one is used; thread-safe.

    Args:
        first: The reader that reads every image.
        second: The reader of images whose first answer has a low confidence.
        below: Images whose answer has less confidence are passed on.
        timeout_s: Maximum wait for an opinion, in seconds.
        metrics: Counters of the opinions.
        monotonic: The clock of deadlines, in seconds.
    """

    def __init__(
        self,
        first: Reader,
        second: Reader,
        *,
        below: float,
        timeout_s: float,
        metrics: CascadeMetrics,
        monotonic: Callable[[], float],
    ) -> None:
        self.first = first
        self.second = second
        self.below = below
        self.timeout_s = timeout_s
        self.metrics = metrics
        self.monotonic = monotonic

    def start(self) -> None:
        """Load the second model in the background, once the first one is loaded.

        Two models that load at the same time would both use the same figure of free memory.
        """
        self.second.start(
            self._continue_alone, after=lambda: self.first.queue.wait_until_loaded(LOAD_TIMEOUT_S)
        )

    def wait_until_loaded(self) -> None:
        """Wait until the second model has loaded or failed to; at most `timeout_s` for a server."""
        remote = self.second.backend.remote
        self.second.queue.wait_until_loaded(self.timeout_s if remote else LOAD_TIMEOUT_S)

    def close(self) -> None:
        """Reject new images of the second reader from now on."""
        self.second.queue.close()

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Return whether all accepted work is answered within `timeout_s`."""
        # No request waits longer than `self.timeout_s` for an opinion.
        return self.second.queue.wait_until_empty(min(timeout_s, self.timeout_s))

    def consult(
        self, options: Options, deadline: float, is_disconnected: Callable[[], bool]
    ) -> Consultation:
        """Return the consultation for the images of one request.

        Args:
            options: The options of the request.
            deadline: Time of the clock at which the request times out.
            is_disconnected: Whether the client has disconnected.
        """
        return Consultation(self, options, deadline, is_disconnected)

    def note_late(self, opinion: Opinion) -> None:
        """Mark a reader that stalls as failed, until its monitor finds that it reads again."""
        message = "The second reader did not answer in time."
        stalled = opinion.deadline - opinion.requested >= STALLED_SHARE * self.timeout_s
        if stalled and self.second.queue.set_state(ModelState.FAILED, message):
            log.error("%s It is asked again once it reads a test image.", message)

    def _continue_alone(self, error: Exception) -> None:
        """Continue without the second model, which cannot be loaded."""
        log.error(
            "The second model %s cannot be loaded; only the first one answers: %s",
            self.second.backend.model_name,
            load_failure(error),
        )
        self.close()


class Consultation:
    """The opinions on the images of one request; a context manager.

    At the end of the context, its slots in the second reader's queue are released.
    """

    def __init__(
        self,
        cascade: Cascade,
        options: Options,
        deadline: float,
        is_disconnected: Callable[[], bool],
    ) -> None:
        self._cascade = cascade
        self._options = options
        self._deadline = deadline
        self._is_disconnected = is_disconnected
        self._reservations = ExitStack()
        self._beyond_first = is_beyond(
            options, cascade.first.backend.capabilities, cascade.second.backend.capabilities
        )

    def before(self, image: Image.Image, key: Key | None) -> Opinion | None:
        """Ask for an opinion before the first reader's answer, if only the second one can give it.

        Args:
            image: The decoded image.
            key: The key of identical requests; None shares nothing.
        """
        return self._ask(image, key) if self._beyond_first else None

    def about(self, answer: Answer, image: Image.Image, key: Key | None) -> Opinion | None:
        """Ask for an opinion on an answer of the first reader with a low confidence."""
        if answer.confidence >= self._cascade.below:
            self._cascade.metrics.answers.labels("kept").inc()
            return None
        return self._ask(image, key)

    def decide(self, first: Answer, opinion: Opinion) -> Answer | None:
        """Return the more probable answer of both readers, None where the second one gave none.

        Raises:
            ClientDisconnected: The client has disconnected.
        """
        if opinion.pending is None:
            return None
        second_reader, metrics = self._cascade.second, self._cascade.metrics
        pending = opinion.pending
        try:
            output = pending.result(opinion.deadline, self._is_disconnected)
        except ClientDisconnected:
            raise
        except CaptchaServiceError as error:
            self._miss(error.error_type)
            if isinstance(error, DeadlineExceeded):
                self._cascade.note_late(opinion)
            return None
        second = replace(
            answer_from_output(output, self._plan),
            model=second_reader.backend.model_name,
            queue_s=first.queue_s + pending.queue_s,
            inference_s=first.inference_s + pending.inference_s,
        )
        if opinion.alone:
            metrics.answers.labels("alone").inc()
            return second if second.success else first
        chosen = likelier(first, second)
        metrics.gain.inc(max(0.0, chosen.confidence - first.confidence))
        winner = "second" if chosen is second else "first"
        metrics.answers.labels("agreed" if agree(first, second) else winner).inc()
        return chosen

    @cached_property
    def _plan(self) -> RecognitionPlan:
        """The plan of the request with the second reader, made when it is first asked."""
        return self._cascade.second.plan(self._options)

    def _ask(self, image: Image.Image, key: Key | None) -> Opinion:
        now = self._cascade.monotonic()
        deadline = min(self._deadline, now + self._cascade.timeout_s)
        second = self._cascade.second
        pending = None
        # The monitor probes a failed reader; requests do not wait for it.
        if second.queue.state is not ModelState.READY:
            self._miss(f"model_{second.queue.state}")
        else:
            try:
                slots = self._reservations.enter_context(second.queue.reserve(1, deadline))
                pending, _ = second.submit(image, self._plan, slots, key)
            except CaptchaServiceError as error:
                self._miss(error.error_type)
        return Opinion(pending, now, deadline, self._beyond_first)

    def _miss(self, reason: str) -> None:
        """Count an opinion that was requested and not given."""
        self._cascade.metrics.answers.labels("missed").inc()
        self._cascade.metrics.missed.labels(reason).inc()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reservations.close()
