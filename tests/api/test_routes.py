from __future__ import annotations

import base64
import io
import json
import logging
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.exceptions import BadGateway, Conflict
from werkzeug.test import TestResponse

from qwen_captcha import __version__
from qwen_captcha.app import create_app
from qwen_captcha.errors import CaptchaServiceError, OutOfMemory, every_error_type
from qwen_captcha.recognition.answer import NONE_OF_COLORS
from qwen_captcha.recognition.reading import GenerationRequest
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings, load_settings
from tests.support.captchas import file_of
from tests.support.fake_backend import (
    MAX_WAIT_S,
    FakeBackend,
    image_bytes,
)

IMAGE = image_bytes(120)


def body_of(response: TestResponse) -> dict[str, Any]:
    """Return the JSON object of a reply, which every reply must have."""
    assert response.mimetype == "application/json"
    body = json.loads(response.data)
    assert isinstance(body, dict)
    return body


def assert_error(response: TestResponse, status: int, error_type: str) -> str:
    """Check that a reply is the one error object; returns its sentence."""
    body = body_of(response)
    assert list(body) == ["success", "text", "confidence", "error", "error_type"]
    assert (body["success"], body["text"], body["confidence"]) == (False, "", 0.0)
    assert (response.status_code, body["error_type"]) == (status, error_type)
    assert body["error"].endswith(".")
    return str(body["error"])


def test_an_answer_has_the_documented_fields_in_order(client: FlaskClient) -> None:
    response = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert response.status_code == 200
    assert list(body_of(response).items()) == [
        ("success", True),
        ("text", "w120"),
        ("confidence", 0.778801),
        ("raw_response", "w120"),
    ]


def test_chinese_is_sent_as_it_is(client: FlaskClient, backend: FakeBackend) -> None:
    backend.respond = lambda task: "验证码"
    response = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert '"raw_response":"验证码"'.encode() in response.data


def test_no_answer_is_a_200_without_success(client: FlaskClient, backend: FakeBackend) -> None:
    backend.respond = lambda task: "5/0"
    response = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert response.status_code == 200
    assert body_of(response) == {
        "success": False,
        "text": "",
        "confidence": 0.0,
        "raw_response": "5/0",
        "error": "The model gave no usable answer.",
        "error_type": "no_answer",
    }


def test_a_blank_image_is_no_answer_and_not_read(client: FlaskClient, backend: FakeBackend) -> None:
    blank = file_of(Image.new("RGB", (130, 40), "white"))
    body = body_of(client.post("/ocr", data=blank))
    assert (body["success"], body["text"], body["error_type"]) == (False, "", "no_answer")
    assert "no characters" in body["error"]
    reply = client.post("/ocr", json={"image": base64.b64encode(blank).decode()})
    assert body_of(reply)["result"] == ""
    assert backend.batches == []
    # A caller may ask a model that follows prompts anything about it.
    assert body_of(client.post("/ocr?prompt=Which+color?", data=blank))["text"] == "w130"


def test_characters_of_some_colors_are_read(client: FlaskClient, backend: FakeBackend) -> None:
    assert body_of(client.post("/ocr?colors=black", data=IMAGE))["text"] == "w120"
    body = body_of(client.post("/ocr?colors=red,blue", data=IMAGE))
    assert (body["error_type"], body["error"]) == ("no_answer", NONE_OF_COLORS)
    fields = {"image_base64": base64.b64encode(IMAGE).decode(), "colors": ["dark"]}
    ranges = {"dark": [[0, 0, 0], [180, 255, 90]]}
    reply = client.post("/ocr", json={**fields, "custom_color_ranges": ranges})
    assert body_of(reply)["text"] == "w120"
    assert "dark" in assert_error(client.post("/ocr", json=fields), 400, "invalid_option")


def test_warnings_are_a_list(client: FlaskClient) -> None:
    response = client.post("/ocr?charset=abc", data=IMAGE, content_type="image/png")
    assert body_of(response)["warnings"] == [
        "the text is outside charset, length or kind: the engine does not restrict it."
    ]


@pytest.mark.parametrize(("least", "marked"), [("0.7", False), ("0.9", True)])
def test_an_answer_below_min_confidence_is_marked(
    client: FlaskClient, least: str, marked: bool
) -> None:
    url = f"/ocr?min_confidence={least}"
    body = body_of(client.post(url, data=IMAGE, content_type="image/png"))
    assert body["success"] is True
    assert body["text"]
    assert body["confidence"] == pytest.approx(0.778801)
    assert body.get("low_confidence", False) is marked


def test_details_are_sent_on_request(client: FlaskClient) -> None:
    plain = body_of(client.post("/ocr", data=IMAGE, content_type="image/png"))
    assert "details" not in plain
    asked = client.post("/ocr?details=true", data=IMAGE, content_type="image/png")
    assert body_of(asked) == {**plain, "details": {"characters": [], "alternatives": []}}


def test_contradictory_options_are_rejected_before_reading(
    client: FlaskClient, backend: FakeBackend
) -> None:
    url = "/ocr?kind=digits&charset=abc"
    response = client.post(url, data=IMAGE, content_type="image/png")
    assert response.status_code == 400
    assert body_of(response)["error_type"] == "invalid_option"
    assert backend.batches == []


def test_the_cache_header_is_hit_or_miss(client: FlaskClient) -> None:
    uses = [
        client.post("/ocr", data=IMAGE, content_type="image/png").headers["X-Cache"]
        for _ in range(2)
    ]
    assert uses == ["miss", "hit"]


def batch(*images: bytes) -> dict[str, Any]:
    return {
        "images": [
            (io.BytesIO(image), f"captcha{number}.png") for number, image in enumerate(images, 1)
        ]
    }


def test_a_batch_keeps_order_and_names_and_one_bad_image_fails_alone(client: FlaskClient) -> None:
    response = client.post(
        "/batch-ocr", data=batch(image_bytes(50), b"this is a text", image_bytes(60))
    )
    body = body_of(response)
    assert response.status_code == 200
    assert list(body) == ["success", "count", "results"]
    assert (body["success"], body["count"]) == (True, 3)
    first, broken, last = body["results"]
    assert list(first) == ["filename", "success", "text", "confidence", "raw_response"]
    assert (first["filename"], first["text"]) == ("captcha1.png", "w50")
    assert (last["filename"], last["text"]) == ("captcha3.png", "w60")
    assert broken.pop("error").endswith(".")
    assert broken == {
        "filename": "captcha2.png",
        "success": False,
        "text": "",
        "confidence": 0.0,
        "raw_response": "",
        "error_type": "unsupported_image_type",
    }


def test_a_batch_in_json_shares_the_options(client: FlaskClient, backend: FakeBackend) -> None:
    texts = [base64.b64encode(image_bytes(width)).decode() for width in (50, 60)]
    body = body_of(
        client.post("/batch-ocr", json={"images_base64": texts, "prompt": "Only digits."})
    )
    assert [result["text"] for result in body["results"]] == ["w50", "w60"]
    assert {task.prompt for tasks in backend.batches for task in tasks} == {"Only digits."}


def test_the_cache_header_of_a_batch_is_hit_only_if_all_images_were_cached(
    client: FlaskClient,
) -> None:
    bad = b"this is a text"
    uses = [
        client.post("/batch-ocr", data=batch(*images)).headers["X-Cache"]
        for images in (
            [image_bytes(50), bad],
            [image_bytes(50), bad],
            [image_bytes(50), image_bytes(60)],
            [bad],
        )
    ]
    assert uses == ["miss", "hit", "miss", "off"]


def test_health_has_the_documented_fields(client: FlaskClient) -> None:
    response = client.get("/health")
    assert response.status_code == 200
    assert body_of(response) == {
        "status": "ok",
        "service": "qwen2-vl-captcha",
        "version": __version__,
        "model": "fake-model",
        "device": "cpu",
        "model_status": "ready",
        "gpu_available": False,
        "backend": "torch",
        "calibrated": False,
    }


def test_live_and_ready_have_a_route_each(client: FlaskClient) -> None:
    assert (client.get("/livez").status_code, client.get("/readyz").status_code) == (200, 200)


def service_of(app: Flask) -> CaptchaService:
    service = app.extensions["captcha_service"]
    assert isinstance(service, CaptchaService)
    return service


def test_while_the_model_loads_only_livez_is_200(backend: FakeBackend, settings: Settings) -> None:
    backend.hold()
    app = create_app(settings, backend)
    client = app.test_client()
    health = client.get("/health")
    assert (health.status_code, health.headers["Retry-After"]) == (503, "5")
    body = body_of(health)
    assert (body["status"], body["model_status"], body["model"]) == (
        "loading",
        "loading",
        "fake-model",
    )
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    refused = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert_error(refused, 503, "model_loading")
    assert refused.headers["Retry-After"] == "5"
    backend.release()
    assert service_of(app).wait_until_loaded(MAX_WAIT_S)
    assert client.get("/health").status_code == 200
    service_of(app).begin_drain()


def test_a_proxy_with_other_instances_gets_retryable_requests_back(
    app: Flask, client: FlaskClient
) -> None:
    service_of(app).begin_drain()
    alone = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert_error(alone, 503, "draining")
    assert "X-Accel-Redirect" not in alone.headers
    headers = {"X-Captcha-Elsewhere": "/secret"}
    sent = client.post("/ocr", data=IMAGE, content_type="image/png", headers=headers)
    assert_error(sent, 503, "draining")
    assert sent.headers["X-Accel-Redirect"] == "@elsewhere"


def test_the_right_errors_are_for_another_instance() -> None:
    sent = {error.error_type for error in every_error_type() if error.elsewhere}
    assert sent == {"model_loading", "model_failed", "draining"}


def test_a_model_that_broke_is_reported_and_may_recover(
    client: FlaskClient, backend: FakeBackend
) -> None:
    def respond(task: GenerationRequest) -> str:
        raise ValueError("non-finite logits")

    read, backend.respond = backend.respond, respond
    for width in range(50, 55):
        refused = client.post("/ocr", data=image_bytes(width), content_type="image/png")
        assert "logits" not in assert_error(refused, 500, "internal_error")
    health = client.get("/health")
    body = body_of(health)
    assert health.status_code == 503
    assert (body["status"], body["model_status"]) == ("failed", "failed")
    assert body["error"] == "The last 5 images failed inside the model."
    backend.respond = read
    assert client.post("/ocr", data=IMAGE, content_type="image/png").status_code == 200
    assert client.get("/health").status_code == 200


def test_while_the_service_drains_it_is_not_ready(app: Flask, client: FlaskClient) -> None:
    service_of(app).begin_drain()
    refused = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert_error(refused, 503, "draining")
    health = client.get("/health")
    body = body_of(health)
    assert (health.status_code, body["status"], body["model_status"]) == (503, "draining", "ready")
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "error_type"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/assets/nothing.js", 404, "not_found"),
        ("GET", "/assets/../page.html", 404, "not_found"),
        ("POST", "/", 405, "method_not_allowed"),
        ("POST", "/docs", 405, "method_not_allowed"),
        ("GET", "/favicon.ico", 404, "not_found"),
        ("GET", "/static/x", 404, "not_found"),
        ("GET", "/" + "x" * 5000, 404, "not_found"),
        ("GET", "/ocr", 405, "method_not_allowed"),
        ("PUT", "/ocr", 405, "method_not_allowed"),
        ("DELETE", "/batch-ocr", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("BREW", "/health", 405, "method_not_allowed"),
        ("POST", "/ocr", 400, "missing_image"),
        ("POST", "/batch-ocr", 400, "missing_image"),
    ],
)
def test_every_failed_request_has_the_error_object(
    client: FlaskClient, method: str, path: str, status: int, error_type: str
) -> None:
    assert_error(client.open(path, method=method), status, error_type)


def test_a_wrong_method_has_an_allow_header(client: FlaskClient) -> None:
    allowed = client.get("/ocr").headers["Allow"]
    assert set(allowed.split(", ")) == {"POST", "OPTIONS"}


def test_options_and_head_have_no_body(client: FlaskClient) -> None:
    options = client.options("/ocr")
    assert (options.status_code, options.data) == (200, b"")
    assert "POST" in options.headers["Allow"]
    head = client.head("/health")
    assert (head.status_code, head.data) == (200, b"")
    assert client.head("/ocr").status_code == 405


@pytest.mark.parametrize("path", ["//ocr", "///ocr", "/ocr/", "//ocr//"])
def test_repeated_slashes_are_removed(client: FlaskClient, path: str) -> None:
    # As a path the test client would take it for a host name.
    overrides = {"PATH_INFO": path}
    response = client.post("/", data=IMAGE, content_type="image/png", environ_overrides=overrides)
    assert body_of(response)["text"] == "w120"


def create_client(backend: FakeBackend, **variables: str) -> FlaskClient:
    app = create_app(load_settings(variables), backend)
    assert service_of(app).wait_until_loaded(MAX_WAIT_S)
    return app.test_client()


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        ("/ocr", {"data": b"x" * 2001}, "image/png"),
        ("/ocr", {"data": b"x" * 2001}, "application/x-www-form-urlencoded"),
        ("/ocr", {"json": {"image_base64": "x" * 2001}}, "application/json"),
        ("/ocr", {"data": {"image_base64": "x" * 2001}}, "multipart/form-data"),
        ("/batch-ocr", {"data": {"images": (io.BytesIO(b"x" * 2001), "x")}}, None),
        ("/batch-ocr", {"json": {"images_base64": ["x" * 2001]}}, "application/json"),
    ],
    ids=["raw", "curl's default", "json", "form field", "batch of files", "batch in json"],
)
def test_a_body_over_the_limit_is_rejected(
    backend: FakeBackend, path: str, body: dict[str, Any], content_type: str | None
) -> None:
    client = create_client(backend, MAX_BODY_BYTES="2000", MAX_IMAGE_BYTES="2000")
    response = client.post(path, content_type=content_type, **body)
    assert "limit of 2000 bytes" in assert_error(response, 413, "body_too_large")
    assert backend.batches == []


def test_an_image_over_the_limit_is_rejected(backend: FakeBackend) -> None:
    client = create_client(backend, MAX_IMAGE_BYTES="2000")
    response = client.post("/ocr", data=b"x" * 2001, content_type="image/png")
    assert_error(response, 413, "image_too_large")


def test_too_many_images_are_rejected(backend: FakeBackend) -> None:
    client = create_client(backend, MAX_BATCH_IMAGES="2")
    response = client.post("/batch-ocr", data=batch(*[IMAGE] * 3))
    assert_error(response, 413, "too_many_images")


@pytest.mark.parametrize("path", ["/ocr?prompt=123456", "/batch-ocr?prompt=123456"])
def test_a_prompt_over_the_limit_is_rejected(backend: FakeBackend, path: str) -> None:
    client = create_client(backend, MAX_PROMPT_CHARACTERS="5")
    field = "images" if "batch" in path else "image"
    response = client.post(path, data={field: (io.BytesIO(IMAGE), "a.png")})
    assert "at most 5 characters" in assert_error(response, 400, "invalid_option")
    assert backend.batches == []


def test_base64_in_a_form_field_may_be_large(client: FlaskClient) -> None:
    noise = image_bytes(1200, 600, "BMP")
    assert len(noise) > 2_000_000
    response = client.post("/ocr", data={"image_base64": base64.b64encode(noise).decode()})
    assert body_of(response)["text"] == "w1200"


def test_a_late_answer_is_a_504(backend: FakeBackend) -> None:
    client = create_client(backend, OCR_TIMEOUT_S="0.1")
    backend.hold()
    response = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert_error(response, 504, "deadline_exceeded")


def add_route(app: Flask, error: Exception) -> None:
    def fail() -> None:
        raise error

    app.add_url_rule("/fail", view_func=fail)


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (ValueError("/home/secret/model.py"), 500, "internal_error"),
        (BadGateway("/home/secret"), 502, "internal_error"),
        (Conflict(), 409, "bad_request"),
        (OutOfMemory("Too little memory."), 503, "out_of_memory"),
        (CaptchaServiceError("Broken."), 500, "internal_error"),
    ],
    ids=["a bug", "an HTTP error above 499", "an unusual HTTP error", "a service error", "base"],
)
def test_an_error_in_a_view_has_the_error_object(
    backend: FakeBackend,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    error_type: str,
) -> None:
    app = create_app(settings, backend)
    add_route(app, error)
    with caplog.at_level(logging.ERROR):
        sentence = assert_error(app.test_client().get("/fail"), status, error_type)
    assert "secret" not in sentence
    assert ("A request failed." in caplog.messages) is isinstance(error, ValueError)
    service_of(app).begin_drain()


def test_a_retryable_error_has_a_retry_after(backend: FakeBackend, settings: Settings) -> None:
    app = create_app(settings, backend)
    add_route(app, OutOfMemory("Too little memory.", retry_after_s=7))
    assert app.test_client().get("/fail").headers["Retry-After"] == "7"
    service_of(app).begin_drain()
