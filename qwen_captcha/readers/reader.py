"""One backend with the queue in front of it; identical requests in flight share one reading."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw

from qwen_captcha import __version__
from qwen_captcha.backends.base import Backend
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.metrics import Metrics, QueueMetrics
from qwen_captcha.recognition.options import Kind, Options
from qwen_captcha.recognition.plan import RecognitionPlan, plan_recognition
from qwen_captcha.recognition.prompts import DEFAULT_PROMPTS
from qwen_captcha.recognition.reading import GenerationOutput, GenerationRequest
from qwen_captcha.scheduling.batcher import MicroBatcher
from qwen_captcha.scheduling.cache import InFlight
from qwen_captcha.scheduling.health_monitor import HealthMonitor, trial_probe
from qwen_captcha.scheduling.pending import PendingResult
from qwen_captcha.scheduling.request_queue import RequestQueue, Reservation
from qwen_captcha.settings import Settings


def _trial() -> GenerationRequest:
    """Return a request whose image and length of response are those of a common captcha."""
    image = Image.new("RGB", (160, 60), "white")
    ImageDraw.Draw(image).text((40, 10), "A1", fill="black", font_size=32)
    return GenerationRequest(image, DEFAULT_PROMPTS[Kind.AUTO], 8)


TRIAL = _trial()

# A digest of the file or of its pixels, and the options: an answer depends on nothing else.
Key = tuple[bytes, Options]
Pending = PendingResult[GenerationRequest, GenerationOutput]
Slots = Reservation[GenerationRequest, GenerationOutput]


class Reader:
    """A backend, its queue and its health; thread-safe.

    Args:
        backend: The engine; `start` loads it.
        settings: Limits, queue and batches.
        metrics: Metrics of the service.
        queue_metrics: Metrics of this reader's queue and batches.
        monotonic: The clock of deadlines, in seconds.

    Attributes:
        backend: The engine.
        queue: The queue in front of it.
    """

    def __init__(
        self,
        backend: Backend,
        settings: Settings,
        metrics: Metrics,
        queue_metrics: QueueMetrics,
        monotonic: Callable[[], float],
    ) -> None:
        self.backend = backend
        self._metrics = metrics
        self._monotonic = monotonic
        self._ocr_timeout_s = settings.ocr_timeout_s
        self._max_new_tokens = settings.max_new_tokens
        self._in_flight: InFlight[Key, Pending] = InFlight()
        remote = backend.remote
        self.queue: RequestQueue[GenerationRequest, GenerationOutput] = RequestQueue(
            max_queue_size=settings.max_queue_size,
            max_batch_size=1 if remote else settings.max_batch_size,
            max_queue_delay_s=settings.max_queue_delay_ms / 1000,
            monotonic=monotonic,
            metrics=queue_metrics,
        )
        self._batcher = MicroBatcher(
            self.queue,
            backend.read,
            threads=remote.concurrency if remote else 1,
            monotonic=monotonic,
            metrics=queue_metrics,
        )

    def start(
        self, on_failure: Callable[[Exception], None], after: Callable[[], object] = lambda: None
    ) -> None:
        """Load the model in the background.

        Args:
            on_failure: Called if loading fails, by the model's thread.
            after: Called before loading, by the model's thread; may wait.
        """

        def initialise() -> float:
            after()
            return self._load()

        self._batcher.start(initialise, on_failure)
        remote = self.backend.remote
        retry = trial_probe(self.queue, TRIAL, self._ocr_timeout_s, self._monotonic)
        HealthMonitor(self.queue, remote.probe if remote else retry).start()

    def plan(self, options: Options) -> RecognitionPlan:
        """Return the plan of a request with this reader; call it once the model is loaded.

        Raises:
            InvalidOption: No answer is allowed.
        """
        return plan_recognition(options, self.backend.capabilities)

    def submit(
        self, image: Image.Image, plan: RecognitionPlan, slots: Slots, key: Key | None
    ) -> tuple[Pending, bool]:
        """Put an image into the queue, or attach to an identical request in flight.

        Args:
            image: The decoded image.
            plan: The plan of the request with this reader.
            slots: A reservation with an unused slot.
            key: The key of identical requests; None shares nothing.

        Returns:
            The pending result, and whether it belongs to another request.
        """
        request = plan.request(image, self._max_new_tokens, slots.deadline)
        if key is None:
            return slots.submit(request), False
        return self._in_flight.join_or_start(key, slots.attach, lambda: slots.submit(request))

    def _load(self) -> float:
        """Load the model and warm it up; return the seconds of reading one image.

        Raises:
            ModelLoadError: The model cannot be loaded, or cannot read an image.
        """
        self.backend.load()
        self._metrics.model_info.labels(
            self.backend.model_name, self.backend.name, self.backend.device, __version__
        ).set(1)
        try:
            # The first reading takes twice as long with PyTorch. A remote backend has already read
            # an image in `load`.
            if self.backend.remote is None:
                self.backend.read([TRIAL])
            start = self._monotonic()
            self.backend.read([TRIAL])
        except (ArithmeticError, ValueError, RuntimeError) as error:
            raise ModelLoadError(
                f"{self.backend.model_name} was loaded but cannot read an image: {error}"
            ) from error
        return self._monotonic() - start
