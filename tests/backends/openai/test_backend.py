from __future__ import annotations

import io
import logging
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from flask import Flask
from PIL import Image

from evaluation.services.service_process import free_port
from qwen_captcha.app import create_app
from qwen_captcha.backends.factory import remote_backend
from qwen_captcha.backends.openai.chat import output_of
from qwen_captcha.backends.openai.client import MAX_REPLY_BYTES
from qwen_captcha.errors import (
    CaptchaServiceError,
    DeadlineExceeded,
    EngineBusy,
    EngineFailed,
    EngineRejected,
    EngineUnreachable,
    ModelLoadError,
)
from qwen_captcha.recognition.charsets import DIGITS
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Kind
from qwen_captcha.recognition.reading import GenerationRequest
from qwen_captcha.scheduling.health_monitor import HealthMonitor
from qwen_captcha.scheduling.request_queue import ModelState, RequestQueue
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import load_settings
from tests.support.engine_servers import (
    KEY,
    MODEL,
    TOKEN_LOG_PROBABILITY,
    as_reply,
    completion,
    image_of,
    models,
    raw_server,
    recorded_vllm,
)
from tests.support.fake_backend import MAX_WAIT_S, image_bytes
from tests.support.live_server import PROJECT
from tests.support.stub_service import Reply

pytestmark = pytest.mark.live

IMAGE = Image.new("RGB", (160, 60), "black")


@contextmanager
def backend_of(url: str, **variables: str) -> Iterator[object]:
    """Make a backend; its connections are closed at the end."""
    settings = load_settings({"QWEN_BACKEND": "openai", "OPENAI_BASE_URL": url, **variables})
    backend = remote_backend(settings, settings.qwen_model)
    try:
        yield backend
    finally:
        backend.close()


def task(seconds: float = MAX_WAIT_S, **fields: object) -> GenerationRequest:
    return GenerationRequest(IMAGE, "Read it.", 32, deadline=time.monotonic() + seconds, **fields)


@contextmanager
def served(url: str, **variables: str) -> Iterator[Flask]:
    """Make an application whose engine is at an address; it is ready."""
    with backend_of(url, **variables) as backend:
        settings = load_settings(variables)
        app = create_app(settings, backend, on_load_failure=pytest.fail)
        service: CaptchaService = app.extensions["captcha_service"]
        assert service.wait_until_loaded(MAX_WAIT_S)
        try:
            yield app
        finally:
            service.drain(MAX_WAIT_S)


def test_the_request_is_greedy_and_holds_image_prompt_and_key() -> None:
    variables = {"MIN_PIXELS": "7840", "MAX_PIXELS": "18816", "OPENAI_API_KEY": KEY}
    with recorded_vllm() as (server, url), backend_of(url, **variables) as backend:
        backend.load()
        backend.read([task()])
        [body] = server.bodies
        assert 7840 <= math.prod(image_of(body).size) <= 18816
        assert body["messages"][0]["content"][1] == {"type": "text", "text": "Read it."}
        del body["messages"]
        assert body == {
            "model": MODEL,
            "max_tokens": 32,
            "temperature": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "logprobs": True,
        }
        assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
        assert backend.model_name == MODEL


@pytest.mark.parametrize(
    ("owner", "penalty", "constraint"),
    [
        ("vllm", "repetition_penalty", {"structured_outputs": {"regex": "[0-9]{4,6}"}}),
        ("sglang", "repetition_penalty", {"regex": "[0-9]{4,6}"}),
        (
            "lmdeploy",
            "repetition_penalty",
            {"response_format": {"type": "regex_schema", "regex_schema": "[0-9]{4,6}"}},
        ),
        ("llamacpp", "repeat_penalty", {"grammar": "root ::= [0-9]{4,6}"}),
        ("another", None, {}),
    ],
)
def test_each_kind_of_server_gets_its_own_fields(
    owner: str, penalty: str | None, constraint: dict[str, object]
) -> None:
    constraints = DecodingConstraints(DIGITS, min_length=4, max_length=6, kind=Kind.DIGITS)
    with recorded_vllm() as (server, url), backend_of(url) as backend:
        server.listed = models(MODEL, owned_by=owner)
        backend.load()
        backend.read([task(constraints=constraints)])
        [body] = server.bodies
        known = {"model", "messages", "max_tokens", "temperature", "frequency_penalty", "logprobs"}
        further = {name: value for name, value in body.items() if name not in known}
        assert further == constraint | ({penalty: 1.0} if penalty else {})


@pytest.mark.parametrize(
    ("owner", "free", "texts", "constrained"),
    [
        ("vllm", "4821", ["4821"], [False]),
        ("vllm", "3+5=?", ["3+5=?"], [False]),
        ("vllm", "48z1", ["4821"], [False, True]),
        ("another", "48z1", ["48z1"], [False]),
    ],
)
def test_a_charset_is_sent_only_for_a_text_outside_it_that_is_no_arithmetic(
    owner: str, free: str, texts: list[str], constrained: list[bool]
) -> None:
    with recorded_vllm() as (server, url), backend_of(url) as backend:
        server.listed = models(MODEL, owned_by=owner)
        backend.load()
        server.fault = lambda number: as_reply(completion([free, "4821"][number - 1]))
        readings = backend.read([task(constraints=DecodingConstraints(DIGITS, min_length=1))])
        assert [reading.raw_response for reading in readings] == texts
        assert ["structured_outputs" in body for body in server.bodies] == constrained


def test_a_server_without_probabilities_gets_no_logprobs_field() -> None:
    with recorded_vllm() as (server, url), backend_of(url) as backend:
        server.listed = models(MODEL, owned_by="vllm")
        backend._server = "transformers"
        backend._model = None
        assert not backend.capabilities.token_probabilities
        [reading] = backend.read([task()])
        assert "logprobs" not in server.bodies[0]
        assert reading.log_probability is None


def test_probabilities_are_those_of_the_whole_reply() -> None:
    reading = output_of(completion("a3b9"))
    assert reading.log_probability == pytest.approx(5 * TOKEN_LOG_PROBABILITY)
    assert [token.text for token in reading.tokens] == ["a", "3", "b", "9", ""]
    assert reading.complete


def test_a_truncated_reply_is_reported_as_truncated() -> None:
    assert not output_of(completion("a3", finish_reason="length")).complete


def test_special_tokens_are_no_part_of_a_response() -> None:
    text = "<|vision_start|><|image_pad|><|vision_end|>a3b9<|im_end|>"
    assert output_of(completion(text, logprobs=False)).raw_response == "a3b9"


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    reply = completion("ab", logprobs=False)
    reply["choices"][0]["message"]["content"] = "ab\ud83d"
    assert output_of(reply).raw_response == "ab?"


@pytest.mark.parametrize(
    "reply",
    [
        {},
        {"choices": []},
        {"choices": [None]},
        {"choices": {}},
        {"choices": [{"message": {"content": ["a"]}}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": "a"}, "logprobs": {"content": [{"token": "a"}]}}]},
        {"choices": [{"message": {"content": "a"}, "logprobs": "none"}]},
        {
            "choices": [
                {
                    "message": {"content": "a"},
                    "logprobs": {"content": [{"token": "a", "logprob": "-inf"}]},
                }
            ]
        },
    ],
    ids=str,
)
def test_another_json_is_not_a_chat_completion(reply: dict[str, object]) -> None:
    with pytest.raises(EngineFailed, match="not a chat completion"):
        output_of(reply)


HTML = (200, b"<html>It works!</html>")
# What the engine replies: (reply, error, attempts).
FAULTS: dict[str, tuple[Reply, type[CaptchaServiceError], int]] = {
    "HTML": (HTML, EngineFailed, 1),
    "empty": ((200, b""), EngineFailed, 1),
    "a list": (as_reply([]), EngineFailed, 1),
    "deep nonsense": ((200, b"[" * 100_000), EngineFailed, 1),
    "other JSON": (as_reply({"ok": True}), EngineFailed, 1),
    "endless": ((200, b" " * (MAX_REPLY_BYTES + 1)), EngineFailed, 1),
    "500": ((500, b"Internal Server Error"), EngineFailed, 1),
    "502": ((502, b"<html>Bad Gateway</html>"), EngineFailed, 3),
    "503": ((503, b""), EngineBusy, 3),
    "429": (as_reply({}, 429, Retry_After="7"), EngineBusy, 1),
    "429, soon": (as_reply({}, 429, Retry_After="0"), EngineBusy, 3),
    "429, a date": (as_reply({}, 429, Retry_After="Tue, 24 Nov 2026 00:00:00 GMT"), EngineBusy, 3),
    "400": (as_reply({"error": {"message": "too long"}}, 400), EngineRejected, 1),
    "401": (as_reply({"error": f"{KEY} is wrong"}, 401), EngineRejected, 1),
    "redirect": (as_reply({}, 302, Location="http://127.0.0.1:1/"), EngineRejected, 1),
}


@pytest.mark.parametrize(("reply", "error", "attempts"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_one_clear_error(
    reply: Reply,
    error: type[CaptchaServiceError],
    attempts: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with recorded_vllm() as (server, url), backend_of(url, OPENAI_API_KEY=KEY) as backend:
        backend.load()
        server.fault = lambda number: reply
        with pytest.raises(error) as failure:
            backend.read([task(5)])
        assert type(failure.value) is error
        assert server.attempts == attempts
        assert KEY not in caplog.text + failure.value.message
        if error is not EngineRejected:
            waits_s = {"7": 7, "0": 1}
            asked = reply[2].get("Retry-After", "") if len(reply) > 2 else ""
            assert failure.value.retry_after_s == waits_s.get(asked, 5)


@pytest.mark.parametrize("status", [429, 502, 503])
def test_a_transient_error_is_retried(status: int) -> None:
    with recorded_vllm() as (server, url), backend_of(url) as backend:
        backend.load()
        server.fault = lambda number: (status, b"") if number == 1 else None
        [reading] = backend.read([task()])
        assert reading.raw_response.isdigit()
        assert server.attempts == 2


def silence(connection: socket.socket) -> None:
    connection.recv(1)


def trickle(head: bytes) -> Callable[[socket.socket], None]:
    """Send a head at once and then one byte at a time, for ever."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)

    return talk


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n"


@pytest.mark.parametrize(
    "talk",
    [silence, trickle(HEAD), trickle(b"HTTP/1.1 200 OK\r\nX-Header: ")],
    ids=["silence", "trickled body", "trickled head"],
)
def test_a_slow_engine_is_cut_off_at_the_deadline(talk: Callable[[socket.socket], None]) -> None:
    with (
        raw_server(talk) as url,
        backend_of(url, QWEN_MODEL=MODEL) as backend,
        pytest.raises(DeadlineExceeded),
    ):
        backend.read([task(0.4)])


@pytest.mark.parametrize(
    "data",
    [b"", HEAD + b'{"choices"', b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"],
    ids=["at once", "mid-body", "other protocol", "mid-head"],
)
def test_a_broken_connection_is_an_engine_that_failed(data: bytes) -> None:
    with raw_server(lambda c: c.sendall(data)) as url, backend_of(url) as backend:
        with pytest.raises(EngineFailed) as failure:
            backend.read([task(5)])
        assert type(failure.value) is EngineFailed


def test_an_engine_that_is_down_is_unreachable() -> None:
    with backend_of(f"http://127.0.0.1:{free_port()}/v1") as backend:
        with pytest.raises(EngineUnreachable):
            backend.read([task(5)])
        with pytest.raises(DeadlineExceeded):
            backend.read([task(-1)])


# What a caller gets: (fault, status, error type).
REPLIES = {
    "HTML": (HTML, 503, "engine_failed"),
    "500": ((500, b""), 503, "engine_failed"),
    "429": (as_reply({}, 429, Retry_After="7"), 503, "engine_busy"),
    "400": (as_reply({}, 400), 500, "engine_rejected"),
}


@pytest.mark.parametrize(("fault", "status", "error_type"), REPLIES.values(), ids=REPLIES)
def test_the_reply_is_the_error_object(fault: Reply, status: int, error_type: str) -> None:
    with recorded_vllm() as (server, url), served(url, OCR_TIMEOUT_S="5") as app:
        server.fault = lambda number: fault
        reply = app.test_client().post("/ocr", data=captcha(), content_type="image/png")
        assert (reply.status_code, reply.json["error_type"]) == (status, error_type)
        assert list(reply.json) == ["success", "text", "confidence", "error", "error_type"]
        assert ("Retry-After" in reply.headers) is (status == 503)


def test_a_missed_deadline_is_a_504() -> None:
    go_on = threading.Event()
    with recorded_vllm() as (server, url), served(url, OCR_TIMEOUT_S="0.3") as app:
        server.fault = lambda number: None if go_on.wait(MAX_WAIT_S) else (500, b"")
        reply = app.test_client().post("/ocr", data=captcha(), content_type="image/png")
        go_on.set()
        assert (reply.status_code, reply.json["error_type"]) == (504, "deadline_exceeded")


def captcha() -> bytes:
    """Return an image that is neither blank nor taken for a trial."""
    return image_bytes(120)


def test_images_are_with_the_engine_at_once_but_not_too_many() -> None:
    together = threading.Barrier(3)
    most, now, lock = [0], [0], threading.Lock()

    def meet(number: int) -> Reply | None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        # Nine images of three at a time meet three times; two at a time would never.
        together.wait(MAX_WAIT_S)
        with lock:
            now[0] -= 1
        return None

    with recorded_vllm() as (server, url), served(url, OPENAI_CONCURRENCY="3") as app:
        server.fault = meet
        files = [(io.BytesIO(image_bytes(90 + n)), "x.png") for n in range(9)]
        reply = app.test_client().post("/batch-ocr", data={"images": files})
        assert [result["success"] for result in reply.json["results"]] == [True] * 9
        assert most[0] == 3


def test_health_follows_the_engine() -> None:
    with recorded_vllm() as (server, url), served(url) as app:
        client, service = app.test_client(), app.extensions["captcha_service"]
        monitor = HealthMonitor(service.queue, service.backend.remote.probe)
        good = client.get("/health")
        assert (good.status_code, good.json["model"]) == (200, MODEL)
        assert good.json["engine"] == {"server": "vllm", "reachable": True, "serves": [MODEL]}
        # Its list is fine, and reading is not: that is found out by reading.
        server.fault = lambda number: (500, b"")
        client.post("/ocr", data=captcha(), content_type="image/png")
        server.outage = lambda call: None if call.method == "GET" else (500, b"")
        monitor.check()
        bad = client.get("/health")
        assert (bad.status_code, bad.json["model_status"]) == (503, "failed")
        assert bad.json["error"] == "The engine failed with HTTP 500."
        assert bad.json["engine"]["reachable"] is False
        server.outage = lambda call: None
        monitor.check()
        assert client.get("/health").json["model_status"] == "ready"


def idle_queue() -> RequestQueue[object, object]:
    return RequestQueue(max_queue_size=1, max_batch_size=1, max_queue_delay_s=0.0)


def test_the_health_monitor_does_not_probe_a_loading_model() -> None:
    queue = idle_queue()
    HealthMonitor(queue, lambda: pytest.fail("probed")).check()
    assert queue.state is ModelState.LOADING


def test_a_busy_engine_has_not_failed() -> None:
    def busy() -> None:
        raise EngineBusy("busy")

    queue = idle_queue()
    queue.set_state(ModelState.READY)
    HealthMonitor(queue, busy).check()
    assert queue.state is ModelState.READY


def test_repeated_engine_failures_and_the_recovery_are_detected() -> None:
    with recorded_vllm() as (server, url), served(url, CACHE_SIZE="0") as app:
        client = app.test_client()
        server.fault = lambda number: (500, b"")
        for _ in range(5):
            client.post("/ocr", data=captcha(), content_type="image/png")
        assert client.get("/health").json["model_status"] == "failed"
        server.fault = lambda number: None
        assert client.post("/ocr", data=captcha(), content_type="image/png").status_code == 200
        assert client.get("/health").json["model_status"] == "ready"


def test_loading_waits_for_an_engine_that_starts_later(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with recorded_vllm() as (server, url), backend_of(url) as backend:
        pauses: list[float] = []
        server.outage = lambda call: (500, b"")

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                server.outage = lambda call: None

        backend._pause = pause
        backend.load()
        assert len(pauses) == 2
        assert caplog.text.count("Waiting for the server") == 1


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (models(), "lists no models"),
        (models("one", "two"), "lists one, two: set it to"),
    ],
    ids=["none", "two"],
)
def test_a_model_that_is_not_named_must_be_the_only_one(
    listed: dict[str, object], message: str
) -> None:
    with recorded_vllm() as (server, url), backend_of(url) as backend:
        server.listed = listed
        with pytest.raises(ModelLoadError, match=message):
            backend.load()


def test_a_model_that_is_not_served_is_never_replaced() -> None:
    with recorded_vllm() as (server, url), backend_of(url, QWEN_MODEL="another") as backend:
        server.outage = lambda call: None if call.method == "GET" else as_reply({}, 404)
        with pytest.raises(ModelLoadError, match=f"model another: .*404. It lists {MODEL}"):
            backend.load()


def test_the_bundled_checkpoint_has_its_own_capabilities() -> None:
    with backend_of("http://127.0.0.1:1/v1", QWEN_MODEL="bundled") as backend:
        assert backend.model_name == "bundled"
        assert not backend.capabilities.follows_prompts


SCRIPT = """
import sys
from qwen_captcha.app import create_app
app = create_app()
service = app.extensions["captcha_service"]
assert service.wait_until_loaded(30)
reply = app.test_client().post("/ocr", data=sys.stdin.buffer.read(), content_type="image/png")
assert reply.status_code == 200, reply.json
print(sorted({"torch", "transformers"} & set(sys.modules)))
service.drain(5)
"""


def test_neither_torch_nor_transformers_is_imported() -> None:
    with recorded_vllm() as (_, url):
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=image_bytes(),
            env={"QWEN_BACKEND": "openai", "OPENAI_BASE_URL": url, "PATH": ""},
            cwd=PROJECT,
            capture_output=True,
            timeout=MAX_WAIT_S,
            check=False,
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode().strip() == "[]"
