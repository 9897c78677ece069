from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pytest
from PIL import Image

from qwen_captcha.errors import (
    CaptchaServiceError,
    DeadlineExceeded,
    Draining,
    ImageTooLarge,
    InternalError,
    ModelLoading,
    QueueFull,
    UnsupportedImageType,
)
from qwen_captcha.images.crop import crop_to_text
from qwen_captcha.readers.reader import TRIAL
from qwen_captcha.recognition.answer import Answer, CacheUse
from qwen_captcha.recognition.options import (
    Case,
    Kind,
    Options,
)
from qwen_captcha.recognition.prompts import prompt_for
from qwen_captcha.recognition.reading import Capabilities, GenerationRequest
from qwen_captcha.scheduling.health_monitor import HealthMonitor, trial_probe
from qwen_captcha.scheduling.request_queue import FAILURES_UNTIL_BROKEN, ModelState
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import (
    MAX_WAIT_S,
    FakeBackend,
    ServiceFactory,
    image_bytes,
    width_of,
)
from tests.support.fake_clock import FakeClock
from tests.support.waiting import wait_until

IMAGE = image_bytes(120)
NO_IMAGE = b"this is a text"
# A deadline that no test reaches by the real clock.
FAR = 1e9


class Caller:
    """A request in a thread of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._outcome: object = None
        self._thread = threading.Thread(target=self._run, args=(call,))
        self._thread.start()

    def _run(self, call: Callable[[], object]) -> None:
        try:
            self._outcome = call()
        except CaptchaServiceError as error:
            self._outcome = error

    def outcome(self) -> object:
        self._thread.join(MAX_WAIT_S)
        assert not self._thread.is_alive()
        return self._outcome


def test_an_image_becomes_an_answer(start_service: ServiceFactory, backend: FakeBackend) -> None:
    service = start_service(backend)
    assert service.recognize(IMAGE, Options(), FAR) == Answer(
        text="w120",
        confidence=0.778801,
        success=True,
        raw_response="w120",
        cache=CacheUse.MISS,
    )
    [[task]] = backend.batches
    assert (task.image.size, task.image.mode) == ((120, 40), "RGB")
    assert task.prompt == prompt_for(Options())
    assert task.max_new_tokens == 32


def test_a_caller_s_prompt_goes_to_a_model_that_follows_it(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    start_service(backend).recognize(IMAGE, Options(prompt="Only the red ones."), FAR)
    assert backend.batches[0][0].prompt == "Only the red ones."


def test_a_model_that_follows_no_prompts_gets_the_default_one(
    start_service: ServiceFactory,
) -> None:
    backend = FakeBackend(capabilities=Capabilities(follows_prompts=False))
    answer = start_service(backend).recognize(IMAGE, Options(prompt="Only the red ones."), FAR)
    assert backend.batches[0][0].prompt == prompt_for(Options())
    assert answer.warnings == (
        "prompt had no effect: the loaded model does not follow instructions.",
    )


def test_a_model_trained_on_cropped_images_gets_cropped_images(
    start_service: ServiceFactory,
) -> None:
    canvas = Image.new("RGB", (200, 100), "white")
    canvas.paste(Image.effect_noise((60, 20), 100).convert("RGB"), (100, 50))
    data = io.BytesIO()
    canvas.save(data, "PNG")
    for crops in (False, True):
        backend = FakeBackend(capabilities=Capabilities(crops_to_text=crops))
        start_service(backend).recognize(data.getvalue(), Options(), FAR)
        shown = backend.batches[0][0].image
        assert shown.tobytes() == (crop_to_text(canvas) if crops else canvas).tobytes()
    assert shown.width < 80
    assert shown.height < 30


def test_an_undecodable_image_is_an_error_without_a_call_to_the_model(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    with pytest.raises(UnsupportedImageType):
        start_service(backend).recognize(NO_IMAGE, Options(), FAR)
    assert backend.batches == []


def test_the_limits_of_the_settings_hold(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    service = start_service(backend, MAX_IMAGE_PIXELS="1000", MAX_NEW_TOKENS="7")
    with pytest.raises(CaptchaServiceError) as rejection:
        service.recognize(IMAGE, Options(), FAR)
    assert rejection.value.error_type == "too_many_pixels"
    service.recognize(image_bytes(20, 20), Options(), FAR)
    assert backend.batches[0][0].max_new_tokens == 7


def test_many_images_keep_their_order_and_share_batches(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    service = start_service(backend, MAX_BATCH_SIZE="4", MAX_QUEUE_DELAY_MS="1000")
    widths = [50 + number for number in range(10)]
    answers = service.recognize_many([image_bytes(width) for width in widths], Options(), FAR)
    assert [answer.text for answer in answers] == [f"w{width}" for width in widths]
    assert backend.batch_sizes == [4, 4, 2]


def test_an_image_that_fails_fails_alone(start_service: ServiceFactory) -> None:
    def respond(task: GenerationRequest) -> str:
        if task.image.width == 66:
            raise ValueError("bad tensor")
        return width_of(task)

    answers = start_service(FakeBackend(respond)).recognize_many(
        [
            image_bytes(50),
            NO_IMAGE,
            ImageTooLarge("The image is too large."),
            image_bytes(66),
            image_bytes(80),
        ],
        Options(),
        FAR,
    )
    assert [(answer.text, answer.success, answer.error_type) for answer in answers] == [
        ("w50", True, None),
        ("", False, "unsupported_image_type"),
        ("", False, "image_too_large"),
        ("", False, "internal_error"),
        ("w80", True, None),
    ]
    assert "tensor" not in str(answers[3].error)


def test_a_batch_of_undecodable_images_reserves_no_slot(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    service = start_service(backend)
    service.begin_drain()
    [answer] = service.recognize_many([ImageTooLarge("Too large.")], Options(), FAR)
    assert answer.error_type == "image_too_large"


def test_the_deadline_of_a_batch_fails_only_the_unread_images(
    start_service: ServiceFactory, backend: FakeBackend, clock: FakeClock
) -> None:
    def respond(task: GenerationRequest) -> str:
        clock.advance(3)
        return width_of(task)

    backend.respond = respond
    service = start_service(backend, clock, MAX_BATCH_SIZE="1", MAX_QUEUE_DELAY_MS="0")
    images = [image_bytes(50 + number) for number in range(4)]
    answers = service.recognize_many(images, Options(), clock.now_s + 6)
    assert [answer.error_type for answer in answers] == [
        None,
        None,
        "deadline_exceeded",
        "deadline_exceeded",
    ]
    assert backend.batch_sizes == [1, 1]


def test_an_answer_that_is_late_is_an_error(
    start_service: ServiceFactory, backend: FakeBackend, clock: FakeClock
) -> None:
    service = start_service(backend, clock)
    with pytest.raises(DeadlineExceeded):
        service.recognize(IMAGE, Options(), clock.now_s)


@pytest.mark.parametrize(
    "copy",
    [IMAGE, image_bytes(120, image_format="BMP")],
    ids=["the same file", "the same pixels in another file"],
)
def test_an_identical_request_is_answered_from_the_cache(
    start_service: ServiceFactory, backend: FakeBackend, copy: bytes
) -> None:
    service = start_service(backend)
    fresh = service.recognize(IMAGE, Options(), FAR)
    kept = service.recognize(copy, Options(), FAR)
    assert (fresh.cache, kept.cache) == (CacheUse.MISS, CacheUse.HIT)
    assert (kept.text, kept.confidence) == (fresh.text, fresh.confidence)
    assert backend.batch_sizes == [1]


@pytest.mark.parametrize(
    "options",
    [
        Options(prompt="read"),
        Options(kind=Kind.DIGITS),
        Options(case=Case.UPPER),
        Options(charset="abc"),
    ],
    ids=["prompt", "kind", "case", "charset"],
)
def test_other_options_are_another_request(
    start_service: ServiceFactory, backend: FakeBackend, options: Options
) -> None:
    service = start_service(backend)
    service.recognize(IMAGE, Options(), FAR)
    assert service.recognize(IMAGE, options, FAR).cache is CacheUse.MISS
    assert backend.batch_sizes == [1, 1]


def test_a_cached_answer_needs_neither_a_slot_nor_decoding(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    service = start_service(backend)
    service.recognize(IMAGE, Options(), FAR)
    service.begin_drain()
    assert service.recognize(IMAGE, Options(), FAR).text == "w120"
    with pytest.raises(Draining):
        service.recognize(NO_IMAGE, Options(), FAR)


def test_cached_answers_expire(
    start_service: ServiceFactory, backend: FakeBackend, clock: FakeClock
) -> None:
    service = start_service(backend, clock, CACHE_TTL_S="60")
    service.recognize(IMAGE, Options(), clock.now_s + 8)
    clock.advance(60)
    answer = service.recognize(IMAGE, Options(), clock.now_s + MAX_WAIT_S)
    assert answer.cache is CacheUse.MISS


def test_a_missing_answer_is_cached_like_an_answer(start_service: ServiceFactory) -> None:
    backend = FakeBackend(lambda task: "")
    service = start_service(backend)
    first, second = (service.recognize(IMAGE, Options(), FAR) for _ in range(2))
    assert (first.error_type, second.error_type) == ("no_answer", "no_answer")
    assert backend.batch_sizes == [1]


def test_an_error_is_not_cached(start_service: ServiceFactory) -> None:
    words = iter(["w120"])
    failures = iter([ValueError("once")])

    def respond(task: GenerationRequest) -> str:
        if task.image.size == (120, 40):
            for failure in failures:
                raise failure
            return next(words)
        return ""

    service = start_service(FakeBackend(respond))
    with pytest.raises(InternalError):
        service.recognize(IMAGE, Options(), FAR)
    assert service.recognize(IMAGE, Options(), FAR).text == "w120"


def test_without_a_cache_every_request_is_read(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    service = start_service(backend, CACHE_SIZE="0")
    answers = [service.recognize(IMAGE, Options(), FAR) for _ in range(2)]
    answers += service.recognize_many([IMAGE, IMAGE], Options(), FAR)
    assert [answer.cache for answer in answers] == [CacheUse.OFF] * 4
    assert sum(backend.batch_sizes) == 4


def wait_until_admitted(service: CaptchaService, slots: int) -> None:
    """Wait until so many images are admitted and all of them decoded."""
    queue = service.queue
    wait_until(lambda: (queue.admitted, queue.decoding) == (slots, 0))


def test_identical_requests_in_flight_are_read_once(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    service = start_service(backend)
    backend.hold()
    leader = Caller(lambda: service.recognize(IMAGE, Options(), FAR))
    backend.wait_until_reading()
    follower = Caller(
        lambda: service.recognize_many([IMAGE, image_bytes(90), IMAGE], Options(), FAR)
    )
    wait_until_admitted(service, 4)
    backend.release()
    first = leader.outcome()
    assert isinstance(first, Answer)
    assert first.cache is CacheUse.MISS
    others = follower.outcome()
    assert isinstance(others, list)
    assert [(answer.text, answer.cache) for answer in others] == [
        ("w120", CacheUse.HIT),
        ("w90", CacheUse.MISS),
        ("w120", CacheUse.HIT),
    ]
    assert backend.batch_sizes == [1, 1]


def test_the_error_of_a_shared_task_reaches_all_its_clients(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    def respond(task: GenerationRequest) -> str:
        raise ValueError("bad tensor")

    service = start_service(backend)
    backend.respond = respond
    backend.hold()
    both = Caller(lambda: service.recognize_many([IMAGE, IMAGE], Options(), FAR))
    wait_until_admitted(service, 2)
    backend.release()
    answers = both.outcome()
    assert isinstance(answers, list)
    assert [answer.error_type for answer in answers] == ["internal_error", "internal_error"]
    assert backend.batch_sizes == [1]


def test_a_joined_request_with_a_later_deadline_gets_the_late_answer(
    start_service: ServiceFactory, backend: FakeBackend, clock: FakeClock
) -> None:
    service = start_service(backend, clock)
    backend.hold()
    busy = Caller(lambda: service.recognize(image_bytes(70), Options(), clock.now_s + 100))
    backend.wait_until_reading()
    hasty = Caller(lambda: service.recognize(IMAGE, Options(), clock.now_s + 5))
    wait_until_admitted(service, 2)
    waiting = Caller(lambda: service.recognize(IMAGE, Options(), clock.now_s + 50))
    wait_until_admitted(service, 3)
    clock.advance(10)
    backend.release()
    answer = waiting.outcome()
    assert isinstance(answer, Answer)
    assert answer.text == "w120"
    assert isinstance(busy.outcome(), Answer)
    # The result was there when the first one looked, or it was not: never another error.
    assert isinstance(hasty.outcome(), Answer | DeadlineExceeded)


def test_a_full_queue_rejects_before_decoding(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    service = start_service(backend, MAX_QUEUE_SIZE="2", MAX_BATCH_IMAGES="2")
    backend.hold()
    accepted = Caller(
        lambda: service.recognize_many([image_bytes(50), image_bytes(51)], Options(), FAR)
    )
    backend.wait_until_reading()
    with pytest.raises(QueueFull):
        service.recognize(NO_IMAGE, Options(), FAR)
    with pytest.raises(QueueFull):
        service.recognize_many([NO_IMAGE], Options(), FAR)
    backend.release()
    answers = accepted.outcome()
    assert isinstance(answers, list)
    assert [answer.text for answer in answers] == ["w50", "w51"]


def test_nothing_is_read_while_the_model_is_loading(backend: FakeBackend) -> None:
    backend.hold()
    service = CaptchaService(backend, load_settings({}))
    service.start(on_failure=pytest.fail)
    assert service.model_state is ModelState.LOADING
    with pytest.raises(ModelLoading):
        service.recognize(IMAGE, Options(), FAR)
    assert not service.wait_until_loaded(0)
    backend.release()
    assert service.wait_until_loaded(MAX_WAIT_S)
    assert service.recognize(IMAGE, Options(), FAR).text == "w120"
    service.begin_drain()


def test_a_model_in_this_process_reads_once_before_its_speed_is_measured(
    clock: FakeClock,
) -> None:
    seconds = iter([7.0, 3.0])

    def respond(task: GenerationRequest) -> str:
        clock.advance(next(seconds))
        return ""

    service = CaptchaService(FakeBackend(respond), load_settings({}), clock)
    service.start(pytest.fail)
    assert service.wait_until_loaded(MAX_WAIT_S)
    with service.queue.reserve(1, FAR), pytest.raises(QueueFull, match="would take about 6 s"):
        service.queue.reserve(1, clock.now_s + 5.9)
    service.begin_drain()


def test_a_model_that_cannot_read_is_not_ready() -> None:
    def respond(task: GenerationRequest) -> str:
        raise ValueError("non-finite logits")

    failures: list[Exception] = []
    service = CaptchaService(FakeBackend(respond), load_settings({}))
    reported = threading.Event()
    service.start(lambda error: (failures.append(error), reported.set()))
    assert reported.wait(MAX_WAIT_S)
    assert [str(failure) for failure in failures] == [
        "fake-model was loaded but cannot read an image: non-finite logits"
    ]
    assert service.model_state is ModelState.FAILED
    assert service.model_error == "The model could not be loaded."


def test_a_broken_model_is_tried_again_while_no_images_arrive(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    def fail(task: GenerationRequest) -> str:
        raise ValueError("the GPU is gone")

    service = start_service(backend, CACHE_SIZE="0")
    works, backend.respond = backend.respond, fail
    retry = trial_probe(service.queue, TRIAL, MAX_WAIT_S, service.monotonic)
    monitor = HealthMonitor(service.queue, retry)
    for _ in range(FAILURES_UNTIL_BROKEN):
        monitor.check()  # a model that works is left alone
        with pytest.raises(InternalError):
            service.recognize(IMAGE, Options(), FAR)
    monitor.check()
    assert service.model_state is ModelState.FAILED
    backend.respond = works
    monitor.check()
    assert service.model_state is ModelState.READY
    assert len(backend.batches) == FAILURES_UNTIL_BROKEN


def test_draining_answers_what_is_accepted(
    start_service: ServiceFactory, backend: FakeBackend
) -> None:
    service = start_service(backend)
    backend.hold()
    accepted = Caller(lambda: service.recognize(IMAGE, Options(), FAR))
    backend.wait_until_reading()
    assert not service.drain(0)
    with pytest.raises(Draining):
        service.recognize(image_bytes(90), Options(), FAR)
    backend.release()
    assert service.drain(MAX_WAIT_S)
    answer = accepted.outcome()
    assert isinstance(answer, Answer)
    assert answer.text == "w120"
