"""The HTTP contract as one class of tests, run against every way to serve.

A subclass brings the fixture `call`, which sends one request. What a model reads is its own
matter: the contract is about shapes, statuses, and that one image has one answer in every form.
"""

from __future__ import annotations

import base64
import http.client
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from flask import Flask
from PIL import Image

from qwen_captcha.app import create_app
from qwen_captcha.backends.factory import create_backend
from qwen_captcha.backends.qwen2vl.onnx.export import export_graphs
from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT
from qwen_captcha.recognition.answer import (
    CONFIDENCE_UNKNOWN,
    NOT_RESTRICTED,
)
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Kind
from qwen_captcha.recognition.plan import PROMPT_IGNORED
from qwen_captcha.recognition.reading import GenerationRequest
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import load_settings
from tests.support.captchas import CAPTCHA, draw, file_of
from tests.support.engine_servers import recorded_vllm, transformers_serve
from tests.support.fake_backend import FakeBackend
from tests.support.live_server import (
    ENTRY_SCRIPT,
    MAX_WAIT_S,
    PROJECT,
    Reply,
    gunicorn_command,
    running,
)

ERROR_FIELDS = ["success", "text", "confidence", "error", "error_type"]
PNG = "image/png"
JSON_TYPE = "application/json"
BOUNDARY = "a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"

# In bf16 two kernels may order readings differently whose probabilities differ by less, in nats.
NEAR_TIE = 0.2


OTHER = file_of(draw("0815"))
TEXT_FILE = b"this is a text, not an image"


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    """Return a multipart body of (field, filename or None, content)."""
    body = b""
    for name, filename, content in parts:
        described = f'name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
        body += f"--{BOUNDARY}\r\nContent-Disposition: form-data; {described}\r\n\r\n".encode()
        body += content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def as_json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Call(Protocol):
    """Sends one request and returns the reply."""

    def __call__(
        self, method: str, path: str, body: bytes = b"", content_type: str | None = None
    ) -> Reply: ...


def assert_answer(answer: dict[str, Any]) -> None:
    """Check the fields of one answer."""
    assert {"success", "text", "confidence", "raw_response"} <= set(answer)
    assert isinstance(answer["text"], str)
    assert isinstance(answer["raw_response"], str)
    assert isinstance(answer["confidence"], float)
    assert 0.0 <= answer["confidence"] <= 1.0
    if answer["success"]:
        assert answer["text"]
        assert answer["text"] == answer["text"].strip()
        assert not {"error", "error_type"} & set(answer)
    else:
        assert (answer["text"], answer["error_type"]) == ("", "no_answer")


ANIMATION = file_of(
    draw("12"), "GIF", save_all=True, append_images=[draw("  34")], duration=100, loop=0
)
READABLE = {
    "PNG": CAPTCHA,
    "JPEG": file_of(draw("4711"), "JPEG"),
    "GIF": file_of(draw("4711", mode="P"), "GIF"),
    "WebP": file_of(draw("4711"), "WEBP"),
    "BMP": file_of(draw("4711"), "BMP"),
    "animated GIF": ANIMATION,
    "greyscale": file_of(draw("4711", mode="L")),
    "black and white": file_of(draw("4711", mode="1")),
    "palette": file_of(draw("4711", mode="P")),
    "16 bits": file_of(draw("4711", mode="I;16")),
    "CMYK": file_of(draw("4711", mode="CMYK"), "JPEG"),
    "transparent": file_of(draw("4711", mode="RGBA")),
    "100×30": file_of(draw("4711").resize((100, 30))),
    "1000×400": file_of(draw("4711").resize((1000, 400))),
}

# What is sent to /ocr: (body, content type).
FORMS = {
    "multipart": (form(("image", "captcha.png", CAPTCHA)), FORM),
    "json": (as_json(image_base64=base64_of(CAPTCHA)), JSON_TYPE),
    "json, data URI": (
        as_json(image_base64=f"data:image/png;base64,{base64_of(CAPTCHA)}"),
        JSON_TYPE,
    ),
    "json, charset": (as_json(image_base64=base64_of(CAPTCHA)), "application/json; charset=utf-8"),
    "raw, image/png": (CAPTCHA, PNG),
    "raw, image/jpeg": (CAPTCHA, "image/jpeg"),
    "raw, octet-stream": (CAPTCHA, "application/octet-stream"),
    "raw, no type": (CAPTCHA, None),
    "raw, curl's default": (CAPTCHA, "application/x-www-form-urlencoded"),
}

# What is sent with a prompt: (path, body, content type).
PROMPT = "读出图中的字符"
PROMPTED = {
    "multipart": (
        "/ocr",
        form(("image", "captcha.png", CAPTCHA), ("prompt", None, PROMPT.encode())),
        FORM,
    ),
    "json": ("/ocr", as_json(image_base64=base64_of(CAPTCHA), prompt=PROMPT), JSON_TYPE),
    "raw": ("/ocr?prompt=%E8%AF%BB%E5%87%BA%E5%9B%BE%E4%B8%AD%E7%9A%84%E5%AD%97%E7%AC%A6",
            CAPTCHA, PNG),
}  # fmt: skip

# Rejected requests: (method, path, body, content type, status, error type).
REFUSED = {
    "no such route": ("GET", "/nowhere", b"", None, 404, "not_found"),
    "no such route for an upload": ("POST", "/nowhere", CAPTCHA, PNG, 404, "not_found"),
    "wrong method": ("GET", "/ocr", b"", None, 405, "method_not_allowed"),
    "wrong method for health": ("POST", "/health", CAPTCHA, PNG, 405, "method_not_allowed"),
    "nothing": ("POST", "/ocr", b"", None, 400, "missing_image"),
    "empty body": ("POST", "/ocr", b"", PNG, 400, "empty_image"),
    "empty file": ("POST", "/ocr", form(("image", "x.png", b"")), FORM, 400, "empty_image"),
    "broken form": ("POST", "/ocr", CAPTCHA[20:], FORM, 400, "bad_request"),
    "broken JSON": ("POST", "/ocr", b"{", JSON_TYPE, 400, "bad_request"),
    "JSON list": ("POST", "/ocr", b"[]", JSON_TYPE, 400, "bad_request"),
    "JSON without image": ("POST", "/ocr", b"{}", JSON_TYPE, 400, "missing_image"),
    "not base64": ("POST", "/ocr", as_json(image_base64="$"), JSON_TYPE, 400, "invalid_base64"),
    "no text": ("POST", "/ocr", as_json(image_base64=5), JSON_TYPE, 400, "invalid_base64"),
    "unknown kind": ("POST", "/ocr?kind=poem", CAPTCHA, PNG, 400, "invalid_option"),
    "unknown range": ("POST", "/ocr?charset_range=9", CAPTCHA, PNG, 400, "invalid_option"),
    "text file": ("POST", "/ocr", TEXT_FILE, PNG, 415, "unsupported_image_type"),
    "TGA": ("POST", "/ocr", file_of(draw("1"), "TGA"), PNG, 415, "unsupported_image_type"),
    "cut image": ("POST", "/ocr", CAPTCHA[:60], PNG, 422, "undecodable_image"),
    "1×400": ("POST", "/ocr", file_of(Image.new("RGB", (1, 400))), PNG, 422, "unreadable_shape"),
    "400×1": ("POST", "/ocr", file_of(Image.new("RGB", (400, 1))), PNG, 422, "unreadable_shape"),
    "6000×6000": ("POST", "/ocr", file_of(Image.new("1", (6000, 6000))), PNG, 413,
                  "too_many_pixels"),
    "11 MiB": ("POST", "/ocr", bytes(11 << 20), PNG, 413, "image_too_large"),
    "65 MiB": ("POST", "/ocr", bytes(65 << 20), PNG, 413, "body_too_large"),
    "empty batch": ("POST", "/batch-ocr", form(("other", None, b"x")), FORM, 400, "missing_image"),
    "large batch": ("POST", "/batch-ocr", as_json(images_base64=[""] * 65), JSON_TYPE, 413,
                    "too_many_images"),
}  # fmt: skip


class HttpContract:
    """The HTTP contract."""

    def test_health_has_the_served_model(self, call: Call) -> None:
        reply = call("GET", "/health")
        assert reply.status == 200
        assert list(reply.json)[:7] == [
            "status",
            "service",
            "version",
            "model",
            "device",
            "model_status",
            "gpu_available",
        ]
        assert (reply.json["status"], reply.json["model_status"]) == ("ok", "ready")
        assert (reply.json["service"], reply.json["version"]) == ("qwen2-vl-captcha", "2.0.0")

    @pytest.mark.parametrize("path", ["/livez", "/readyz"])
    def test_live_and_ready(self, call: Call, path: str) -> None:
        reply = call("GET", path)
        assert (reply.status, reply.json) == (200, {"status": "ok"})

    @pytest.mark.parametrize("sent", FORMS.values(), ids=FORMS)
    def test_one_image_has_one_answer_in_every_form(
        self, call: Call, sent: tuple[bytes, str | None]
    ) -> None:
        reply = call("POST", "/ocr", *sent)
        assert reply.status == 200
        assert_answer(reply.json)
        assert reply.json["success"]
        assert reply.json == call("POST", "/ocr", CAPTCHA, PNG).json

    @pytest.mark.parametrize("data", READABLE.values(), ids=READABLE)
    def test_images_of_every_type_are_read(self, call: Call, data: bytes) -> None:
        reply = call("POST", "/ocr", data)
        assert reply.status == 200
        assert_answer(reply.json)

    def test_a_tiny_image_is_read(self, call: Call) -> None:
        reply = call("POST", "/ocr", file_of(Image.new("RGB", (3, 3), "white")))
        assert reply.status == 200
        assert_answer(reply.json)

    @pytest.mark.parametrize("sent", PROMPTED.values(), ids=PROMPTED)
    def test_a_prompt_is_followed_or_has_a_warning(
        self, call: Call, follows_prompts: bool, sent: tuple[str, bytes, str]
    ) -> None:
        reply = call("POST", *sent)
        assert reply.status == 200
        assert_answer(reply.json)
        assert (PROMPT_IGNORED in reply.json.get("warnings", [])) is not follows_prompts

    def test_options_are_the_same_in_query_form_and_json(self, call: Call) -> None:
        text = base64_of(CAPTCHA)
        replies = [
            call("POST", "/ocr?case=upper&kind=text", CAPTCHA, PNG),
            call("POST", "/ocr", as_json(image_base64=text, case="upper", kind="text"), JSON_TYPE),
            call(
                "POST",
                "/ocr",
                form(
                    ("image", "x.png", CAPTCHA),
                    ("case", None, b"upper"),
                    ("kind", None, b"text"),
                ),
                FORM,
            ),
        ]
        assert [reply.status for reply in replies] == [200] * 3
        assert replies[0].json == replies[1].json == replies[2].json
        assert replies[0].json["text"] == replies[0].json["text"].upper()

    def test_a_repeated_request_is_answered_from_the_cache(self, call: Call) -> None:
        image = file_of(draw("2580"))
        fresh, kept = (call("POST", "/ocr", image, PNG) for _ in range(2))
        assert (fresh.headers["x-cache"], kept.headers["x-cache"]) == ("miss", "hit")
        assert fresh.json == kept.json

    def test_a_batch_keeps_its_order_and_one_bad_image_fails_alone(self, call: Call) -> None:
        body = form(
            ("images", "one.png", CAPTCHA),
            ("images", "broken.png", TEXT_FILE),
            ("images", "验证码.png", OTHER),
        )
        reply = call("POST", "/batch-ocr", body, FORM)
        assert (reply.status, reply.json["success"], reply.json["count"]) == (200, True, 3)
        first, broken, last = reply.json["results"]
        for result, name, image in ((first, "one.png", CAPTCHA), (last, "验证码.png", OTHER)):
            assert result.pop("filename") == name
            assert_answer(result)
            assert result["text"] == call("POST", "/ocr", image, PNG).json["text"]
        assert broken.pop("error")
        assert broken == {
            "filename": "broken.png",
            "text": "",
            "confidence": 0.0,
            "success": False,
            "raw_response": "",
            "error_type": "unsupported_image_type",
        }

    def test_a_batch_in_json_is_a_batch(self, call: Call) -> None:
        texts = [base64_of(CAPTCHA), "$", base64_of(OTHER)]
        reply = call("POST", "/batch-ocr", as_json(images_base64=texts), JSON_TYPE)
        assert (reply.status, reply.json["count"]) == (200, 3)
        assert [result["success"] for result in reply.json["results"]] == [True, False, True]
        assert reply.json["results"][1]["error_type"] == "invalid_base64"

    @pytest.mark.parametrize("refused", REFUSED.values(), ids=REFUSED)
    def test_a_rejection_is_the_error_object(
        self, call: Call, refused: tuple[str, str, bytes, str | None, int, str]
    ) -> None:
        method, path, body, content_type, status, error_type = refused
        reply = call(method, path, body, content_type)
        assert (reply.status, reply.json["error_type"]) == (status, error_type)
        assert list(reply.json) == ERROR_FIELDS
        assert (reply.json["success"], reply.json["text"], reply.json["confidence"]) == (
            False,
            "",
            0.0,
        )
        assert str(PROJECT) not in reply.json["error"]

    def test_a_wrong_method_names_the_right_one(self, call: Call) -> None:
        assert "POST" in call("GET", "/ocr").headers["allow"]


def client_call(app: Flask) -> Call:
    """Return what sends a request through Flask's client."""

    def send(method: str, path: str, body: bytes = b"", content_type: str | None = None) -> Reply:
        response = app.test_client().open(path, method=method, data=body, content_type=content_type)
        headers = {name.lower(): value for name, value in response.headers}
        return Reply(response.status_code, headers, response.data)

    return send


class TestFakeBackend(HttpContract):
    """The contract through Flask's client."""

    @pytest.fixture(scope="class")
    @classmethod
    def follows_prompts(cls) -> bool:
        return True

    @pytest.fixture(scope="class")
    @classmethod
    def call(cls) -> Iterator[Call]:
        app = create_app(load_settings({}), FakeBackend())
        service: CaptchaService = app.extensions["captcha_service"]
        assert service.wait_until_loaded(MAX_WAIT_S)
        yield client_call(app)
        service.begin_drain()


def send_over_http(
    port: int, method: str, path: str, body: bytes = b"", content_type: str | None = None
) -> Reply:
    """Send one request over a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=MAX_WAIT_S)
    headers = {} if content_type is None else {"Content-Type": content_type}
    try:
        connection.request(method, path, body or None, headers)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, names, response.read())
    finally:
        connection.close()


@pytest.mark.skipif(not BUNDLED_CHECKPOINT.is_dir(), reason="there is no bundled checkpoint yet")
@pytest.mark.live
class TestBundledCheckpoint(HttpContract):
    """The contract over HTTP, with the model that the project ships, run by PyTorch."""

    backend = "torch"

    @pytest.fixture(scope="class")
    @classmethod
    def port(cls) -> Iterator[int]:
        with running(ENTRY_SCRIPT, QWEN_MODEL="bundled", QWEN_BACKEND="torch") as server:
            server.wait_until_ready()
            yield server.port

    @pytest.fixture(scope="class")
    @classmethod
    def follows_prompts(cls) -> bool:
        return False

    @pytest.fixture(scope="class")
    @classmethod
    def call(cls, port: int) -> Call:
        def send(
            method: str, path: str, body: bytes = b"", content_type: str | None = None
        ) -> Reply:
            return send_over_http(port, method, path, body, content_type)

        return send

    def test_health_names_the_model_that_runs(self, call: Call) -> None:
        health = call("GET", "/health").json
        assert (health["model"], health["backend"]) == ("bundled", self.backend)

    def test_confidence_is_not_a_constant(self, call: Call) -> None:
        confidences = {
            call("POST", "/ocr", file_of(draw(text)), PNG).json["confidence"]
            for text in ("4711", "0815", "W8mZ", "iIl1")
        }
        assert len(confidences) > 1


class TestOnnxRuntime(TestBundledCheckpoint):
    """The contract over HTTP, with the model that the project ships, run by ONNX Runtime."""

    backend = "onnx"

    @pytest.fixture(scope="class")
    @classmethod
    def port(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
        folder = tmp_path_factory.mktemp("onnx") / "bundled"
        shutil.copytree(BUNDLED_CHECKPOINT, folder)
        export_graphs(folder)
        with running(ENTRY_SCRIPT, QWEN_MODEL=str(folder), USE_GPU="false") as server:
            server.wait_until_ready()
            yield server.port


@pytest.mark.live
class OverAnEngine(HttpContract):
    """The contract through Flask's client, with an engine behind OpenAI's protocol.

    A subclass brings the fixture `engine`: the settings that lead to one.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def app(cls, engine: dict[str, str]) -> Iterator[Flask]:
        settings = load_settings({"QWEN_BACKEND": "openai", "OCR_TIMEOUT_S": "60", **engine})
        app = create_app(settings, on_load_failure=pytest.fail)
        service: CaptchaService = app.extensions["captcha_service"]
        assert service.wait_until_loaded(MAX_WAIT_S)
        yield app
        service.drain(MAX_WAIT_S)
        service.backend.close()

    @pytest.fixture(scope="class")
    @classmethod
    def call(cls, app: Flask) -> Call:
        return client_call(app)


class TestRecordedVllm(OverAnEngine):
    """The contract, with replies shaped as vLLM's."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[dict[str, str]]:
        with recorded_vllm() as (_, url):
            yield {"OPENAI_BASE_URL": url}

    @pytest.fixture(scope="class")
    @classmethod
    def follows_prompts(cls) -> bool:
        return True


@pytest.mark.skipif(not BUNDLED_CHECKPOINT.is_dir(), reason="there is no bundled checkpoint yet")
class TestTransformersServe(OverAnEngine):
    """The contract, with `transformers serve` on the model that the project ships."""

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls) -> Iterator[dict[str, str]]:
        with transformers_serve(BUNDLED_CHECKPOINT) as url:
            yield {
                "QWEN_MODEL": "bundled",
                "OPENAI_BASE_URL": url,
                "OPENAI_SERVER": "transformers",
            }

    @pytest.fixture(scope="class")
    @classmethod
    def follows_prompts(cls) -> bool:
        return False

    def test_the_texts_are_those_of_the_model_in_this_process(self, app: Flask) -> None:
        settings = load_settings(
            {"QWEN_MODEL": "bundled", "USE_GPU": "false", "QWEN_BACKEND": "torch"}
        )
        local = create_backend(settings)
        local.load()
        local._views = None  # type: ignore[attr-defined]  # the server reads an image once
        remote = app.extensions["captcha_service"].backend
        images = [draw(text) for text in ("4711", "0815", "W8mZ", "iIl1", "3+4=?", "验证")]
        images += [image.resize((100, 30)) for image in images]
        # As text, greedily: doubtful arithmetic would be searched for here, and not there.
        as_text = DecodingConstraints(kind=Kind.TEXT)
        tasks = [GenerationRequest(image, "Read it.", 32, as_text) for image in images]
        more = DecodingConstraints(alternatives=3)
        searches = [GenerationRequest(image, "Read it.", 32, more) for image in images]
        for there, here, found in zip(
            remote.read(tasks), local.read(tasks), local.read(searches), strict=True
        ):
            if there.raw_response == here.raw_response:
                continue
            probability = {
                reading.raw_response: reading.log_probability or -math.inf
                for reading in (here, found, *found.alternatives)
            }
            margin = probability[here.raw_response] - probability[there.raw_response]
            assert abs(margin) < NEAR_TIE

    def test_missing_features_have_a_warning(self, call: Call) -> None:
        reply = call("POST", "/ocr?charset=%E2%91%A0", CAPTCHA, PNG).json
        assert reply["confidence"] == 0.0
        assert CONFIDENCE_UNKNOWN in reply["warnings"]
        assert NOT_RESTRICTED in reply["warnings"]


@pytest.mark.live
class TestScript:
    """The script for users, against a live service with a fake backend."""

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls) -> Iterator[str]:
        with running(gunicorn_command("tests.support.fake_backend:create_quick_app()")) as server:
            server.wait_until_ready()
            yield f"http://127.0.0.1:{server.port}"

    @pytest.fixture
    def captcha(self, tmp_path: Path) -> str:
        path = tmp_path / "captcha.png"
        path.write_bytes(CAPTCHA)
        return str(path)

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        """Return exit status and lines of the script, in Python without any package."""
        command = [sys.executable, "-S", str(PROJECT / "test_qwen_captcha.py"), *arguments]
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=MAX_WAIT_S, check=False
        )
        assert "Traceback" not in process.stderr
        return process.returncode, process.stdout.splitlines()

    def test_no_argument_checks_the_health(self, url: str) -> None:
        status, lines = self.run("--url", url)
        assert (status, lines[0], lines[-1]) == (0, url, "1 of 1 checks passed")
        assert "fake-model on cpu, ready" in lines[1]

    def test_an_image_is_read_in_every_form(self, url: str, captcha: str) -> None:
        status, lines = self.run(captcha, "--url", url + "/")
        assert (status, lines[-1]) == (0, "6 of 6 checks passed")
        assert sum("'w160' with confidence 0.78" in line for line in lines) == 5

    def test_a_prompt_is_tried_too(self, url: str, captcha: str) -> None:
        status, lines = self.run(captcha, PROMPT, "--url", url)
        assert (status, lines[-1]) == (0, "11 of 11 checks passed")
        assert sum("+ prompt" in line for line in lines) == 5

    def test_a_bad_image_fails_the_checks(self, url: str, tmp_path: Path) -> None:
        path = tmp_path / "note.png"
        path.write_bytes(TEXT_FILE)
        status, lines = self.run(str(path), "--url", url)
        assert (status, lines[-1]) == (1, "1 of 6 checks passed")
        assert sum("unsupported_image_type" in line for line in lines) == 5

    def test_a_missing_image_is_reported(self, url: str, tmp_path: Path) -> None:
        status, lines = self.run(str(tmp_path / "missing.png"), "--url", url)
        assert (status, lines) == (2, [])

    def test_a_service_that_is_not_there_fails_the_check(self) -> None:
        # Nothing can listen on port 0.
        status, lines = self.run("--url", "http://127.0.0.1:0")
        assert (status, lines[-1]) == (1, "0 of 1 checks passed")
        assert "FAIL  health" in lines[1]
        assert "no reply" in lines[1]
