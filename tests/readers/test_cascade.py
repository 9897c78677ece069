from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient
from PIL import Image

from qwen_captcha.app import create_app
from qwen_captcha.backends.base import RemoteEngine
from qwen_captcha.errors import EngineFailed, ModelLoadError
from qwen_captcha.readers.cascade import Cascade
from qwen_captcha.recognition.answer import CacheUse
from qwen_captcha.recognition.options import Kind, Options
from qwen_captcha.recognition.reading import Capabilities, GenerationOutput, GenerationRequest
from qwen_captcha.scheduling.request_queue import FAILURES_UNTIL_BROKEN, ModelState
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import MAX_WAIT_S, FakeBackend, ServiceFactory, image_bytes
from tests.support.fake_clock import FakeClock
from tests.support.waiting import wait_until

IMAGE = image_bytes(120)
FAR = 1e9
SURE, UNSURE, VERY_SURE = math.log(0.9), math.log(0.4), math.log(0.95)
TRANSCRIBER = Capabilities(follows_prompts=False, answers_questions=False)

StartCascade = Callable[..., CaptchaService]


class Second(FakeBackend):
    """A second reader that reads `large` with a higher confidence than the first."""

    model_name = "large-model"

    def __init__(
        self, respond: str | Callable[[GenerationRequest], str] = "large", **facts: object
    ):
        reply = respond if callable(respond) else lambda task: respond
        super().__init__(reply, **{"log_probability": VERY_SURE, **facts})  # type: ignore[arg-type]


def small(log_probability: float = UNSURE, **facts: object) -> FakeBackend:
    """Return a first reader that reads `small`."""
    return FakeBackend(
        lambda task: "small",
        log_probability=log_probability,
        capabilities=TRANSCRIBER,
        **facts,  # type: ignore[arg-type]
    )


@pytest.fixture
def start_cascade(start_service: ServiceFactory) -> Iterator[StartCascade]:
    """Start a service with a second reader, which has loaded."""
    seconds = []

    def start(
        first: FakeBackend, second: FakeBackend, clock: FakeClock | None = None, **variables: str
    ) -> CaptchaService:
        seconds.append(second)
        service = start_service(first, clock, second=second, **variables)
        assert second_reader(service).second.queue.wait_until_loaded(MAX_WAIT_S)
        return service

    yield start
    for second in seconds:
        second.release()


def second_reader(service: CaptchaService) -> Cascade:
    assert service.cascade is not None
    return service.cascade


def outcomes(service: CaptchaService) -> dict[str, float]:
    """Return how often each outcome was counted."""
    [metric] = service.metrics.cascade.answers.collect()
    return {
        sample.labels["outcome"]: sample.value
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def reasons(service: CaptchaService) -> dict[str, float]:
    """Return why opinions were missed."""
    [metric] = service.metrics.cascade.missed.collect()
    return {
        sample.labels["reason"]: sample.value
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


def gain(service: CaptchaService) -> float:
    [metric] = service.metrics.cascade.gain.collect()
    return metric.samples[0].value


def test_an_answer_above_the_threshold_does_not_ask_the_second_reader(
    start_cascade: StartCascade,
) -> None:
    second = Second()
    service = start_cascade(small(SURE), second)
    answer = service.recognize(IMAGE, Options(), FAR)
    assert (answer.text, answer.model) == ("small", "fake-model")
    assert second.batches == []
    assert outcomes(service) == {"kept": 1}


@pytest.mark.parametrize(
    ("said", "log_probability", "text", "model", "outcome", "gained"),
    [
        pytest.param("large", VERY_SURE, "large", "large-model", "second", 0.55, id="surer"),
        pytest.param("large", math.log(0.3), "small", "fake-model", "first", 0.0, id="less-sure"),
        pytest.param("SMALL", VERY_SURE, "SMALL", "large-model", "agreed", 0.55, id="agrees"),
        pytest.param("small", math.log(0.3), "small", "fake-model", "agreed", 0.0, id="as-before"),
    ],
)
def test_the_answer_that_is_likelier_right_counts(
    start_cascade: StartCascade,
    said: str,
    log_probability: float,
    text: str,
    model: str,
    outcome: str,
    gained: float,
) -> None:
    service = start_cascade(small(), Second(said, log_probability=log_probability))
    answer = service.recognize(IMAGE, Options(), FAR)
    assert (answer.text, answer.model) == (text, model)
    assert outcomes(service) == {outcome: 1}
    assert gain(service) == pytest.approx(gained, abs=1e-5)


def test_the_threshold_is_the_setting(start_cascade: StartCascade) -> None:
    second = Second()
    service = start_cascade(small(UNSURE), second, CASCADE_BELOW="0.4")
    assert service.recognize(IMAGE, Options(), FAR).text == "small"
    service = start_cascade(small(UNSURE), second, CASCADE_BELOW="0.41")
    assert service.recognize(IMAGE, Options(), FAR).text == "large"


def test_the_second_reader_answers_what_the_first_one_has_no_answer_to(
    start_cascade: StartCascade,
) -> None:
    first = FakeBackend(lambda task: "I cannot help with that.")
    answer = start_cascade(first, Second(log_probability=None)).recognize(IMAGE, Options(), FAR)
    assert (answer.text, answer.success, answer.model) == ("large", True, "large-model")


@pytest.mark.parametrize(
    "options",
    [Options(prompt="Only the red ones."), Options(kind=Kind.QUESTION)],
    ids=["prompt", "question"],
)
def test_prompts_that_only_the_second_reader_follows_go_to_it(
    start_cascade: StartCascade, options: Options
) -> None:
    # The first reader is held until the second one reads: it was not waited for.
    first, second = small(SURE), Second(log_probability=math.log(0.1))
    service = start_cascade(first, second)
    first.hold()
    caller = threading.Thread(target=lambda: answers.append(service.recognize(IMAGE, options, FAR)))
    answers: list[object] = []
    caller.start()
    second.wait_until_reading()
    first.release()
    caller.join(MAX_WAIT_S)
    [answer] = answers
    assert (answer.text, answer.model, answer.warnings) == ("large", "large-model", ())  # type: ignore[attr-defined]
    assert outcomes(service) == {"alone": 1}


@pytest.mark.parametrize(
    ("options", "asked", "error_type"),
    [(Options(), 0, "no_answer"), (Options(prompt="What color is it?"), 1, None)],
    ids=["read", "prompt"],
)
def test_a_blank_image_is_shown_to_a_second_reader_that_follows_a_prompt(
    start_cascade: StartCascade, options: Options, asked: int, error_type: str | None
) -> None:
    blank = io.BytesIO()
    Image.new("RGB", (120, 40), "red").save(blank, "PNG")
    second = Second()
    answer = start_cascade(small(), second).recognize(blank.getvalue(), options, FAR)
    assert answer.error_type == error_type
    assert len(second.batches) == asked


def test_a_second_reader_without_prompts_is_asked_below_the_threshold_only(
    start_cascade: StartCascade,
) -> None:
    second = Second(capabilities=TRANSCRIBER)
    service = start_cascade(small(SURE), second)
    answer = service.recognize(IMAGE, Options(prompt="Only the red ones."), FAR)
    assert answer.text == "small"
    assert answer.warnings
    assert second.batches == []


def test_images_for_the_second_reader_share_batches_and_keep_their_order(
    start_cascade: StartCascade,
) -> None:
    second = Second(lambda task: f"large{task.image.width}")
    service = start_cascade(small(), second)
    second.hold()
    answers: list[list[str]] = []
    images = [image_bytes(50 + number) for number in range(5)]
    caller = threading.Thread(
        target=lambda: answers.append(
            [answer.text for answer in service.recognize_many(images, Options(), FAR)]
        )
    )
    caller.start()
    second.wait_until_reading()
    wait_until(lambda: second_reader(service).second.queue.admitted == 5)
    second.release()
    caller.join(MAX_WAIT_S)
    assert answers == [[f"large{50 + number}" for number in range(5)]]
    assert sum(second.batch_sizes) == 5
    assert len(second.batch_sizes) < 5


def test_an_identical_request_is_answered_from_the_cache_with_its_model(
    start_cascade: StartCascade,
) -> None:
    second = Second()
    service = start_cascade(small(), second)
    fresh, cached = (service.recognize(IMAGE, Options(), FAR) for _ in range(2))
    assert (fresh.cache, cached.cache) == (CacheUse.MISS, CacheUse.HIT)
    assert (cached.text, cached.model) == ("large", "large-model")
    assert second.batch_sizes == [1]
    assert outcomes(service) == {"second": 1}


def raise_error(error: Exception) -> Callable[[GenerationRequest], str]:
    def respond(task: GenerationRequest) -> str:
        if task.image.size == (120, 40):
            raise error
        return ""

    return respond


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        pytest.param(Second(raise_error(ValueError("torn"))), "internal_error", id="breaks"),
        pytest.param(Second(raise_error(EngineFailed("gone"))), "engine_failed", id="is-down"),
        pytest.param(Second(raise_error(MemoryError())), "out_of_memory", id="has-no-memory"),
    ],
)
def test_an_error_of_the_second_reader_leaves_the_first_answer(
    start_cascade: StartCascade, second: Second, reason: str
) -> None:
    service = start_cascade(small(), second)
    answer = service.recognize(IMAGE, Options(), FAR)
    assert (answer.text, answer.success, answer.model) == ("small", True, "fake-model")
    assert outcomes(service) == {"missed": 1}
    assert reasons(service) == {reason: 1}


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(Second("abc"), id="outside-of-the-charset"),
        pytest.param(Second(""), id="nothing"),
        pytest.param(Second("I'm sorry, I can't help with that."), id="a-refusal"),
        pytest.param(Second("1234", log_probability=math.nan), id="probability-nan"),
        pytest.param(Second("1234", log_probability=None), id="no-probability"),
    ],
)
def test_a_second_answer_outside_the_constraints_does_not_count(
    start_cascade: StartCascade, second: Second
) -> None:
    first = FakeBackend(lambda task: "5678", log_probability=UNSURE)
    service = start_cascade(first, second)
    answer = service.recognize(IMAGE, Options(charset="0123456789"), FAR)
    assert (answer.text, answer.model, answer.warnings) == ("5678", "fake-model", ())
    assert outcomes(service) == {"first": 1}


def test_too_few_outputs_of_the_second_reader_leave_the_first_answers(
    start_cascade: StartCascade, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = Second()
    service = start_cascade(small(), second)

    def nothing(requests: object) -> list[GenerationOutput]:
        return []

    reader = second_reader(service).second
    monkeypatch.setattr(reader._batcher, "_read", nothing)
    assert service.recognize(IMAGE, Options(), FAR).text == "small"
    assert reasons(service) == {"internal_error": 1}


def read_while_held(
    service: CaptchaService,
    second: Second,
    clock: FakeClock,
    *,
    deadline_s: float,
    passing_s: float,
) -> list[str]:
    """Return the texts of one request during which the second reader is held and time passes."""
    second.hold()
    texts: list[str] = []
    deadline = clock.now_s + deadline_s
    caller = threading.Thread(
        target=lambda: texts.append(service.recognize(IMAGE, Options(), deadline).text)
    )
    caller.start()
    second.wait_until_reading()
    clock.advance(passing_s)
    caller.join(MAX_WAIT_S)
    return texts


def test_a_second_reader_that_stalls_is_waited_for_once_and_not_cached(
    start_cascade: StartCascade, clock: FakeClock
) -> None:
    second = Second()
    service = start_cascade(small(), second, clock, OCR_TIMEOUT_S="8")
    reader = second_reader(service).second
    assert read_while_held(service, second, clock, deadline_s=3600, passing_s=8) == ["small"]
    assert reader.queue.state is ModelState.FAILED
    # It is not asked any more, and the answer without its opinion was not cached.
    again = service.recognize(IMAGE, Options(), clock.now_s + 8)
    assert (again.text, again.cache) == ("small", CacheUse.MISS)
    assert second.batch_sizes == [1]
    assert reasons(service) == {"deadline_exceeded": 1, "model_failed": 1}
    second.release()
    wait_until(lambda: reader.queue.state is ModelState.READY)
    assert service.recognize(IMAGE, Options(), clock.now_s + 8).text == "large"


def test_a_short_deadline_of_the_request_leaves_the_second_reader_ready(
    start_cascade: StartCascade, clock: FakeClock
) -> None:
    second = Second()
    service = start_cascade(small(), second, clock, OCR_TIMEOUT_S="8")
    assert read_while_held(service, second, clock, deadline_s=1, passing_s=1) == ["small"]
    assert second_reader(service).second.queue.state is ModelState.READY


def test_a_second_reader_whose_queue_is_full_is_not_waited_for(
    start_cascade: StartCascade,
) -> None:
    second = Second()
    service = start_cascade(small(), second, MAX_QUEUE_SIZE="1", MAX_BATCH_IMAGES="1")
    second.hold()
    waiting = threading.Thread(target=lambda: service.recognize(IMAGE, Options(), FAR))
    waiting.start()
    second.wait_until_reading()
    assert service.recognize(image_bytes(90), Options(), FAR).text == "small"
    assert reasons(service) == {"queue_full": 1}
    second.release()
    waiting.join(MAX_WAIT_S)


def test_a_second_reader_that_was_killed_is_not_asked_until_it_recovers(
    start_cascade: StartCascade,
) -> None:
    second = Second(raise_error(EngineFailed("gone")))
    service = start_cascade(small(), second, CACHE_SIZE="0")
    for _ in range(FAILURES_UNTIL_BROKEN + 3):
        assert service.recognize(IMAGE, Options(), FAR).text == "small"
    assert len(second.batches) == FAILURES_UNTIL_BROKEN
    assert service.model_state is ModelState.READY
    assert reasons(service) == {"engine_failed": FAILURES_UNTIL_BROKEN, "model_failed": 3}


def test_a_second_model_that_cannot_be_loaded_fails_no_request(
    start_cascade: StartCascade,
) -> None:
    service = start_cascade(small(), Second(load_error=ModelLoadError("the weights are torn")))
    assert service.recognize(IMAGE, Options(), FAR).text == "small"
    assert reasons(service) == {"model_failed": 1}


def test_the_first_reader_answers_while_the_second_one_is_loaded(
    start_service: ServiceFactory,
) -> None:
    second = Second()
    second.hold()
    service = start_service(small(), second=second)
    assert service.recognize(IMAGE, Options(), FAR).text == "small"
    assert reasons(service) == {"model_loading": 1}
    second.release()


def test_a_server_that_is_down_at_the_start_is_not_waited_for(
    start_service: ServiceFactory,
) -> None:
    second = Second()
    second.hold()
    second.remote = RemoteEngine(2, lambda: None, dict)
    service = start_service(small(), second=second, OCR_TIMEOUT_S="0.1")
    second_reader(service).wait_until_loaded()
    assert second_reader(service).second.queue.state is ModelState.LOADING
    second.release()


def test_a_drain_waits_for_the_second_reader(start_cascade: StartCascade) -> None:
    second = Second()
    service = start_cascade(small(), second)
    second.hold()
    answers: list[object] = []
    caller = threading.Thread(
        target=lambda: answers.append(service.recognize(IMAGE, Options(), FAR))
    )
    caller.start()
    second.wait_until_reading()
    service.begin_drain()
    assert not service.drain(0)
    second.release()
    assert service.drain(MAX_WAIT_S)
    caller.join(MAX_WAIT_S)
    assert [answer.text for answer in answers] == ["large"]  # type: ignore[attr-defined]


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    """Return the client of an application with a second reader."""
    app = create_app(load_settings({}), small(), second=Second())
    service: CaptchaService = app.extensions["captcha_service"]
    assert service.wait_until_loaded(MAX_WAIT_S)
    second_reader(service).wait_until_loaded()
    yield app.test_client()
    service.begin_drain()


def test_replies_name_the_model(client: FlaskClient) -> None:
    single = client.post("/ocr", data=IMAGE, content_type="image/png").json
    assert single is not None
    assert (single["text"], single["model"]) == ("large", "large-model")
    batch = client.post(
        "/batch-ocr",
        data={
            "images": [
                (io.BytesIO(image_bytes(90)), "a.png"),
                (io.BytesIO(image_bytes(91)), "b.png"),
            ]
        },
    ).json
    assert batch is not None
    assert [result["model"] for result in batch["results"]] == ["large-model"] * 2


def test_dialects_get_the_answer_that_counts(client: FlaskClient) -> None:
    reply = client.post("/ocr/file/text", data={"image": (io.BytesIO(image_bytes(90)), "a.png")})
    assert reply.text == "large"


def test_health_has_the_state_of_the_second_reader(client: FlaskClient) -> None:
    health = client.get("/health").json
    assert health is not None
    assert health["model"] == "fake-model"
    assert health["cascade"] == {
        "model": "large-model",
        "device": "cpu",
        "model_status": "ready",
        "calibrated": False,
        "below": 0.5,
    }
