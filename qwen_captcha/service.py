"""One recognition, from image bytes to an answer: cache, queue, model, text.

The steps are the same for one image and for many. A slot of the queue is reserved before an image
is decoded. An image that fails does not affect the other images of its request.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from PIL import Image

from qwen_captcha.backends.base import Backend
from qwen_captcha.backends.factory import create_backend, create_second_backend
from qwen_captcha.collecting.collector import Collector
from qwen_captcha.errors import (
    CaptchaServiceError,
    ClientDisconnected,
    ModelLoadError,
    load_failure,
)
from qwen_captcha.images.blank import is_blank
from qwen_captcha.images.colors import keep_colors
from qwen_captcha.images.decode import ImageLimits, decode_image
from qwen_captcha.logs import REQUEST_ID
from qwen_captcha.metrics import Metrics
from qwen_captcha.readers.cascade import LOAD_TIMEOUT_S, Cascade, Consultation, Opinion
from qwen_captcha.readers.reader import Key, Pending, Reader, Slots
from qwen_captcha.recognition.answer import (
    Answer,
    CacheUse,
    answer_from_output,
    blank_answer,
    failed_answer,
)
from qwen_captcha.recognition.options import Options
from qwen_captcha.recognition.plan import RecognitionPlan
from qwen_captcha.scheduling.cache import AnswerCache, digest_of_bytes, digest_of_pixels
from qwen_captcha.scheduling.pending import never_disconnected
from qwen_captcha.scheduling.request_queue import ModelState
from qwen_captcha.settings import Settings

# Seconds to wait for the failure of the loading thread, which follows the change of state.
FAILURE_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class _Request:
    """One request that has slots for its images.

    Attributes:
        options: The options of all images.
        plan: The plan of the request with the first reader.
        slots: One for each image that is not known.
        deadline: Time of the clock at which to give up.
        is_disconnected: Whether the client has disconnected.
        consultation: The opinions of the second reader, None where there is none.
        transcribes: No model is asked by a prompt of the caller.
    """

    options: Options
    plan: RecognitionPlan
    slots: Slots
    deadline: float
    is_disconnected: Callable[[], bool]
    consultation: Consultation | None
    transcribes: bool


@dataclass(frozen=True, slots=True)
class _Work:
    """An image in the queue.

    Attributes:
        image: The decoded image.
        pending: The pending result.
        keys: The keys under which the answer is cached; the last one is of the pixels.
        cache: Whether the request to the model was started for this image, or joined.
        opinion: The opinion that the second reader was asked for.
    """

    image: Image.Image
    pending: Pending
    keys: tuple[Key, ...]
    cache: CacheUse
    opinion: Opinion | None

    @property
    def shared_key(self) -> Key | None:
        """The key of identical requests."""
        return self.keys[-1] if self.keys else None


@dataclass(frozen=True, slots=True)
class _Read:
    """An image that the first reader has answered.

    Attributes:
        work: The image.
        answer: The first reader's answer.
        opinion: The opinion that the second reader was asked for.
    """

    work: _Work
    answer: Answer
    opinion: Opinion | None


class CaptchaService:
    """Reads captchas with one backend, or with a second one behind it; thread-safe.

    Args:
        backend: The engine; `start` loads it.
        settings: Limits, queue and cache.
        monotonic: The clock of deadlines and expiry, in seconds.
        second: The engine that is asked where the first one is not sure; None asks none.
        metrics: The metrics to count in; None makes new ones.
        collector: Keeps images with their answers; None where nothing is collected.

    Attributes:
        backend: The engine.
        monotonic: The clock of deadlines.
        metrics: The metrics of the service.
        collector: Keeps images with their answers.
        queue: The queue of the first reader.
        cascade: The second reader behind the first one, None where there is none.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        second: Backend | None = None,
        metrics: Metrics | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.backend = backend
        self.monotonic = monotonic
        self.metrics = metrics or Metrics()
        self.collector = collector
        self._image_limits = ImageLimits(settings.max_image_pixels, settings.max_frames)
        self._caching = settings.cache_size > 0
        self._cache: AnswerCache[Key, Answer] = AnswerCache(
            settings.cache_size, settings.cache_ttl_s, monotonic
        )
        self._reader = Reader(backend, settings, self.metrics, self.metrics.queue, monotonic)
        self.queue = self._reader.queue
        self.cascade = None if second is None else self._create_cascade(second, settings)

    def _create_cascade(self, second: Backend, settings: Settings) -> Cascade:
        """Return the second reader behind the first one."""
        queue_metrics = self.metrics.cascade.queue
        return Cascade(
            self._reader,
            Reader(second, settings, self.metrics, queue_metrics, self.monotonic),
            below=settings.cascade_below,
            timeout_s=settings.ocr_timeout_s,
            metrics=self.metrics.cascade,
            monotonic=self.monotonic,
        )

    @property
    def model_state(self) -> ModelState:
        """Whether the model answers."""
        return self.queue.state

    @property
    def model_error(self) -> str | None:
        """One sentence about the failure of the model, None where it has not failed."""
        return self.queue.error

    @property
    def draining(self) -> bool:
        """Whether the service is shutting down."""
        return self.queue.draining

    def start(self, on_failure: Callable[[Exception], None]) -> None:
        """Load the model in the background; `on_failure` is called where that fails."""
        self._reader.start(on_failure)
        if self.cascade is not None:
            self.cascade.start()

    def wait_until_loaded(self, timeout_s: float) -> bool:
        """Return whether the model has finished loading, or failed to, within `timeout_s`."""
        return self.queue.wait_until_loaded(timeout_s)

    def begin_drain(self) -> None:
        """Take no new work from now on; accepted requests are still answered."""
        self.queue.close()
        if self.cascade is not None:
            self.cascade.close()

    def drain(self, timeout_s: float) -> bool:
        """Take no new work and wait; return whether all accepted requests are answered."""
        self.begin_drain()
        is_empty = self.queue.wait_until_empty(timeout_s)
        return is_empty and (self.cascade is None or self.cascade.wait_until_empty(timeout_s))

    def recognize(
        self,
        data: bytes,
        options: Options,
        deadline: float,
        is_disconnected: Callable[[], bool] = never_disconnected,
    ) -> Answer:
        """Read one image.

        Args:
            data: The image file.
            options: The options of the request.
            deadline: Time of `monotonic` at which to give up.
            is_disconnected: Whether the client has disconnected, so that the image need not be
                read.

        Raises:
            CaptchaServiceError: The image cannot be read, or not now.
        """
        [outcome] = self._outcomes([data], options, deadline, is_disconnected)
        if isinstance(outcome, CaptchaServiceError):
            raise outcome
        self._measure(outcome, options)
        self._collect(data, outcome, options)
        return outcome

    def recognize_many(
        self,
        images: Sequence[bytes | CaptchaServiceError],
        options: Options,
        deadline: float,
        is_disconnected: Callable[[], bool] = never_disconnected,
    ) -> list[Answer]:
        """Read many images, in order; one that fails gets an answer with its error.

        Args:
            images: The image files; an error in place of a file that is known to be unusable.
            options: The options of all images.
            deadline: Time of `monotonic` at which to give up on those that are not read.
            is_disconnected: Whether the client has disconnected, so that the rest need not be read.

        Raises:
            CaptchaServiceError: The whole batch cannot be taken now.
        """
        answers = []
        outcomes = self._outcomes(images, options, deadline, is_disconnected)
        for position, (image, outcome) in enumerate(zip(images, outcomes, strict=True), 1):
            if isinstance(outcome, CaptchaServiceError):
                self.metrics.rejections.labels(outcome.error_type).inc()
                answers.append(failed_answer(outcome))
            else:
                self._measure(outcome, options)
                self._collect(image, outcome, options, f"#{position}")
                answers.append(outcome)
        return answers

    def _measure(self, answer: Answer, options: Options) -> None:
        """Count one answer."""
        outcome = "answered" if answer.success else "no_answer"
        self.metrics.answers.labels(options.kind, outcome).inc()
        self.metrics.cache.labels(answer.cache).inc()
        if answer.success:
            self.metrics.confidence.observe(answer.confidence)
        if answer.cache is not CacheUse.HIT:
            self.metrics.queue_seconds.observe(answer.queue_s)

    def _collect(
        self,
        image: bytes | CaptchaServiceError,
        answer: Answer,
        options: Options,
        suffix: str = "",
    ) -> None:
        """Hand an image and its answer to the collector, under the id of the current request.

        Args:
            image: The image file.
            answer: Its answer.
            options: The options of the request.
            suffix: Distinguishes the images of a batch; no request id ends so.
        """
        request_id = REQUEST_ID.get()
        if self.collector is not None and request_id and isinstance(image, bytes):
            model = answer.model or self.backend.model_name
            self.collector.keep(request_id + suffix, image, answer, options, model)

    def _outcomes(
        self,
        images: Sequence[bytes | CaptchaServiceError],
        options: Options,
        deadline: float,
        is_disconnected: Callable[[], bool],
    ) -> list[Answer | CaptchaServiceError]:
        """Return an answer or an error for each image, in order."""
        known = [self._known(image, options) for image in images]
        slots = sum(isinstance(outcome, bytes) for outcome in known)
        with (
            self.queue.reserve(slots, deadline) as reservation,
            self._consult(options, deadline, is_disconnected) as consultation,
        ):
            request = _Request(
                options,
                self._reader.plan(options),
                reservation,
                deadline,
                is_disconnected,
                consultation,
                options.prompt is None or not self._follows_prompts(),
            )
            # All are put into the queue before the first is waited for, so they share batches;
            # so do those that are passed on.
            begun = [
                self._begin(outcome, request) if isinstance(outcome, bytes) else outcome
                for outcome in known
            ]
            read = [
                self._read(outcome, request) if isinstance(outcome, _Work) else outcome
                for outcome in begun
            ]
            return [
                self._finish(outcome, consultation) if isinstance(outcome, _Read) else outcome
                for outcome in read
            ]

    def _consult(
        self, options: Options, deadline: float, is_disconnected: Callable[[], bool]
    ) -> AbstractContextManager[Consultation | None]:
        """Return the consultation of the second reader, if there is one."""
        if self.cascade is None:
            return nullcontext()
        return self.cascade.consult(options, deadline, is_disconnected)

    def _follows_prompts(self) -> bool:
        """Return whether any model follows a prompt of the caller."""
        readers = [self._reader] if self.cascade is None else [self._reader, self.cascade.second]
        return any(reader.backend.capabilities.follows_prompts for reader in readers)

    def _known(
        self, image: bytes | CaptchaServiceError, options: Options
    ) -> bytes | Answer | CaptchaServiceError:
        """Return the cached answer or the error of an image, else the image itself."""
        if isinstance(image, CaptchaServiceError) or not self._caching:
            return image
        return self._cached((digest_of_bytes(image), options)) or image

    def _begin(self, data: bytes, request: _Request) -> _Work | Answer | CaptchaServiceError:
        """Decode one admitted image and put it into the queue, unless its answer is known."""
        options, slots = request.options, request.slots
        try:
            image = decode_image(data, self._image_limits)
        except CaptchaServiceError as error:
            slots.release_slot()
            return error
        if options.colors:
            image = keep_colors(image, options.colors)
        if request.transcribes and is_blank(image):
            slots.release_slot()
            return blank_answer(options)
        keys: tuple[Key, ...] = ()
        cache = CacheUse.OFF
        if self._caching:
            keys = (digest_of_bytes(data), options), (digest_of_pixels(image), options)
            if cached := self._cached(keys[-1]):
                slots.release_slot()
                self._cache.put(keys[0], cached)
                return cached
            cache = CacheUse.MISS
        key = keys[-1] if keys else None
        pending, attached = self._reader.submit(image, request.plan, slots, key)
        opinion = request.consultation.before(image, key) if request.consultation else None
        return _Work(image, pending, keys, CacheUse.HIT if attached else cache, opinion)

    def _read(self, work: _Work, request: _Request) -> _Read | CaptchaServiceError:
        """Wait for the output for one image, make it an answer and pass it on if it is unsure."""
        try:
            output = work.pending.result(request.deadline, request.is_disconnected)
        except ClientDisconnected:
            raise  # With all that the request has in the queue.
        except CaptchaServiceError as error:
            return error
        answer = replace(
            answer_from_output(output, request.plan),
            queue_s=work.pending.queue_s,
            inference_s=work.pending.inference_s,
        )
        if request.consultation is None:
            return _Read(work, answer, None)
        answer = replace(answer, model=self.backend.model_name)
        opinion = work.opinion or request.consultation.about(answer, work.image, work.shared_key)
        return _Read(work, answer, opinion)

    def _finish(self, read: _Read, consultation: Consultation | None) -> Answer:
        """Wait for the second opinion on one image, if there is one, and cache the answer."""
        decided: Answer | None = read.answer
        if consultation is not None and read.opinion is not None:
            decided = consultation.decide(read.answer, read.opinion)
        answer = decided or read.answer
        # One whose opinion was missed is read again.
        if decided is not None:
            kept = replace(answer, queue_s=0.0, inference_s=0.0)
            for key in read.work.keys:
                self._cache.put(key, kept)
        return replace(answer, cache=read.work.cache)

    def _cached(self, key: Key) -> Answer | None:
        """Return the answer to an earlier identical request."""
        answer = self._cache.get(key)
        return None if answer is None else replace(answer, cache=CacheUse.HIT)


def start_local_service(settings: Settings) -> CaptchaService:
    """Return a service whose model is loaded, downloaded first if it is missing.

    Raises:
        ModelLoadError: There is no such model, or it cannot be loaded here.
    """
    failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()
    backend = create_backend(settings)
    service = CaptchaService(backend, settings, second=create_second_backend(settings))
    service.start(failures.put)
    service.wait_until_loaded(LOAD_TIMEOUT_S)
    if service.model_state is not ModelState.READY:
        error = failures.get(timeout=FAILURE_WAIT_S)
        raise ModelLoadError(load_failure(error)) from error
    if service.cascade is not None:
        service.cascade.wait_until_loaded()
    return service
