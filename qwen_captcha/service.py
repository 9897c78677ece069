"""One recognition, from image bytes to an answer: cache, queue, model, text.

Responsible for: the order of these steps, the same for one image and for many. Invariant: the cache
is asked and a slot in the queue is taken before an image is decoded, and an image that fails takes
no other one with it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from qwen_captcha import __version__
from qwen_captcha.backends.base import Backend
from qwen_captcha.backends.factory import create_backend
from qwen_captcha.collecting.collector import Collector
from qwen_captcha.errors import (
    CallerLeft,
    CaptchaServiceError,
    ModelLoadError,
    QueueFull,
    load_failure,
)
from qwen_captcha.images.blank import is_blank
from qwen_captcha.images.colors import keep_colors
from qwen_captcha.images.decode import ImageLimits, decode_image
from qwen_captcha.logs import REQUEST_ID
from qwen_captcha.metrics import Metrics
from qwen_captcha.recognition.answer import (
    Answer,
    CacheUse,
    answer_from_output,
    blank_answer,
    failed_answer,
    image_shown,
    obeyed_options,
)
from qwen_captcha.recognition.constraints import DecodingConstraints, constraints_for
from qwen_captcha.recognition.options import Options
from qwen_captcha.recognition.prompts import prompt_for
from qwen_captcha.recognition.reading import GenerationOutput, GenerationRequest
from qwen_captcha.scheduling.admission import ModelState, Reservation
from qwen_captcha.scheduling.batcher import MicroBatcher
from qwen_captcha.scheduling.cache import (
    AnswerCache,
    InFlight,
    digest_of_bytes,
    digest_of_pixels,
)
from qwen_captcha.scheduling.health_monitor import HealthMonitor, trial_probe
from qwen_captcha.scheduling.pending import PendingResult, never_disconnected
from qwen_captcha.settings import Settings

# The size of a common captcha, and the length of a common response.
TRIAL = GenerationRequest(Image.new("RGB", (160, 60), "white"), prompt_for(Options()), 8)

# A day: the largest model, downloaded first.
LOAD_TIMEOUT_S = 86_400.0
# The failure is handed over right after the state has changed.
HANDOVER_S = 10.0

# What an answer depends on: a digest of the file or of its pixels, and the options.
Key = tuple[bytes, Options]


@dataclass(frozen=True, slots=True)
class _Work:
    """An image in the queue.

    Attributes:
        pending: Where the result will be.
        keys: The keys under which the answer will be cached.
        cache: Whether the request to the model was started for this image, or joined.
    """

    pending: PendingResult[GenerationRequest, GenerationOutput]
    keys: tuple[Key, ...]
    cache: CacheUse


class CaptchaService:
    """Reads captchas with one backend; thread-safe.

    Args:
        backend: The engine; `start` loads it.
        settings: Limits, queue and cache.
        monotonic: The clock of deadlines and expiry, in seconds.

    Attributes:
        collector: Keeps images with their answers; None where nothing is collected.
    """

    collector: Collector | None = None

    def __init__(
        self, backend: Backend, settings: Settings, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.backend = backend
        self.monotonic = monotonic
        self.metrics = Metrics()
        self._ocr_timeout_s = settings.ocr_timeout_s
        self._image_limits = ImageLimits(settings.max_image_pixels, settings.max_frames)
        self._max_new_tokens = settings.max_new_tokens
        self._caching = settings.cache_size > 0
        self._cache: AnswerCache[Key, Answer] = AnswerCache(
            settings.cache_size, settings.cache_ttl_s, monotonic
        )
        self._in_flight: InFlight[Key, PendingResult[GenerationRequest, GenerationOutput]] = (
            InFlight()
        )
        remote = backend.remote
        self._batcher: MicroBatcher[GenerationRequest, GenerationOutput] = MicroBatcher(
            backend.read,
            max_batch_size=1 if remote else settings.max_batch_size,
            threads=remote.concurrency if remote else 1,
            max_queue_delay_s=settings.max_queue_delay_ms / 1000,
            max_queue_size=settings.max_queue_size,
            monotonic=monotonic,
            metrics=self.metrics,
        )
        self.admission = self._batcher.admission

    @property
    def model_state(self) -> ModelState:
        """Whether the model answers."""
        return self.admission.state

    @property
    def model_error(self) -> str | None:
        """What is wrong, where the model failed."""
        return self.admission.error

    @property
    def draining(self) -> bool:
        """Whether the service is shutting down."""
        return self.admission.draining

    def start(self, on_failure: Callable[[Exception], None]) -> None:
        """Load the model in the background; `on_failure` is called where that fails."""
        self._batcher.start(self._load, on_failure)
        remote = self.backend.remote
        retry = trial_probe(self._batcher, TRIAL, self._ocr_timeout_s, self.monotonic)
        HealthMonitor(self.admission, remote.probe if remote else retry).start()

    def wait_until_loaded(self, timeout_s: float) -> bool:
        """Return whether the model has finished loading, or failed to, within `timeout_s`."""
        return self.admission.wait_until_loaded(timeout_s)

    def rejection(self, dispatched: int) -> QueueFull | None:
        """Return why one image would not be taken after some others, None where it would be."""
        return self.admission.rejection(self.monotonic() + self._ocr_timeout_s, dispatched)

    def begin_drain(self) -> None:
        """Take no new work from now on; what is accepted is still answered."""
        self.admission.close()

    def drain(self, timeout_s: float) -> bool:
        """Take no new work and wait; returns whether all accepted work is answered."""
        self.begin_drain()
        return self.admission.wait_until_empty(timeout_s)

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
            options: What the caller asked for.
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
        """Read many images, in order; one that fails gets an answer that says so.

        Args:
            images: The image files, or what is known to be wrong with one.
            options: What the caller asked for, for all images.
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
            answer: What is answered.
            options: What the caller asked for.
            suffix: Tells the images of a batch apart; no request id ends so.
        """
        request_id = REQUEST_ID.get()
        if self.collector is not None and request_id and isinstance(image, bytes):
            model = self.backend.model_name
            self.collector.keep(request_id + suffix, image, answer, options, model)

    def _outcomes(
        self,
        images: Sequence[bytes | CaptchaServiceError],
        options: Options,
        deadline: float,
        is_disconnected: Callable[[], bool],
    ) -> list[Answer | CaptchaServiceError]:
        """Return an answer or an error for each image, in order."""
        self._constraints(options)  # rejects options before a slot is taken
        known = [self._known(image, options) for image in images]
        slots = sum(isinstance(outcome, bytes) for outcome in known)
        with self._batcher.reserve(slots, deadline) as reservation:
            # All are put into the queue before the first is waited for, so they share batches.
            begun = [
                self._begin(outcome, options, reservation)
                if isinstance(outcome, bytes)
                else outcome
                for outcome in known
            ]
            return [
                self._finish(outcome, options, deadline, is_disconnected)
                if isinstance(outcome, _Work)
                else outcome
                for outcome in begun
            ]

    def _known(
        self, image: bytes | CaptchaServiceError, options: Options
    ) -> bytes | Answer | CaptchaServiceError:
        """Return what is known about an image before it is decoded, else the image itself."""
        if isinstance(image, CaptchaServiceError) or not self._caching:
            return image
        return self._cached((digest_of_bytes(image), options)) or image

    def _begin(
        self,
        data: bytes,
        options: Options,
        reservation: Reservation[GenerationRequest, GenerationOutput],
    ) -> _Work | Answer | CaptchaServiceError:
        """Decode one admitted image and put it into the queue, unless its answer is known."""
        try:
            image = decode_image(data, self._image_limits)
        except CaptchaServiceError as error:
            reservation.release_slot()
            return error
        if options.colors:
            image = keep_colors(image, options.colors)
        if self._asks_for_characters(options) and is_blank(image):
            reservation.release_slot()
            return blank_answer(options)
        if not self._caching:
            return _Work(
                reservation.submit(self._generation_request(image, options, reservation.deadline)),
                (),
                CacheUse.OFF,
            )
        file_key, pixel_key = (digest_of_bytes(data), options), (digest_of_pixels(image), options)
        if cached := self._cached(pixel_key):
            reservation.release_slot()
            self._cache.put(file_key, cached)
            return cached
        request = self._generation_request(image, options, reservation.deadline)
        pending, joined = self._in_flight.join_or_start(
            pixel_key, reservation.attach, lambda: reservation.submit(request)
        )
        cache = CacheUse.HIT if joined else CacheUse.MISS
        return _Work(pending, (file_key, pixel_key), cache)

    def _finish(
        self, work: _Work, options: Options, deadline: float, is_disconnected: Callable[[], bool]
    ) -> Answer | CaptchaServiceError:
        """Wait for the output for one image and make it an answer, which is cached."""
        try:
            output = work.pending.result(deadline, is_disconnected)
        except CallerLeft:
            raise  # With all that the request has in the queue.
        except CaptchaServiceError as error:
            return error
        answer = answer_from_output(output, options, self.backend.capabilities)
        for key in work.keys:
            self._cache.put(key, answer)
        return replace(
            answer,
            cache=work.cache,
            queue_s=work.pending.started - work.pending.arrival,
            inference_s=work.pending.finished - work.pending.started,
        )

    def _cached(self, key: Key) -> Answer | None:
        """Return the answer to an earlier identical request."""
        answer = self._cache.get(key)
        return None if answer is None else replace(answer, cache=CacheUse.HIT)

    def _generation_request(
        self, image: Image.Image, options: Options, deadline: float
    ) -> GenerationRequest:
        """Return what the backend is asked."""
        prompt = prompt_for(obeyed_options(options, self.backend.capabilities))
        constraints = self._constraints(options)
        shown = image_shown(image, self.backend.capabilities)
        return GenerationRequest(shown, prompt, self._max_new_tokens, constraints, deadline)

    def _asks_for_characters(self, options: Options) -> bool:
        """Return whether the model is asked by a prompt of ours: a caller may ask anything."""
        return obeyed_options(options, self.backend.capabilities).prompt is None

    def _constraints(self, options: Options) -> DecodingConstraints:
        """Return what the answer may look like."""
        return constraints_for(options, follows_prompts=self.backend.capabilities.follows_prompts)

    def _load(self) -> float:
        """Load the model and try it once; returns the seconds that reading one image took."""
        self.backend.load()
        self.metrics.model_info.labels(
            self.backend.model_name, self.backend.device, __version__
        ).set(1)
        start = self.monotonic()
        self.backend.read([TRIAL])
        return self.monotonic() - start


def start_local_service(settings: Settings) -> CaptchaService:
    """Return a service whose model is loaded; it may be downloaded first.

    Raises:
        ModelLoadError: There is no such model, or it cannot be loaded here.
    """
    failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()
    service = CaptchaService(create_backend(settings), settings)
    service.start(failures.put)
    service.wait_until_loaded(LOAD_TIMEOUT_S)
    if service.model_state is not ModelState.READY:
        error = failures.get(timeout=HANDOVER_S)
        raise ModelLoadError(load_failure(error)) from error
    return service
