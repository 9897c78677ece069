from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from qwen_captcha.app import create_app
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import MAX_WAIT_S, FakeBackend, image_bytes

IMAGE = image_bytes()
# Headers whose values differ from request to request.
OWN_HEADERS = {"X-Request-Id", "Server-Timing"}


@pytest.fixture
def app() -> Iterator[Flask]:
    """Return a service whose only slot is taken."""
    app = create_app(load_settings({"MAX_QUEUE_SIZE": "1", "MAX_BATCH_IMAGES": "1"}), FakeBackend())
    service = app.extensions["captcha_service"]
    assert service.wait_until_loaded(MAX_WAIT_S)
    with service.queue.reserve(1, service.monotonic() + MAX_WAIT_S):
        yield app
    service.begin_drain()


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream"])
def test_a_raw_image_is_rejected_as_flask_rejects_it(
    client: FlaskClient, content_type: str
) -> None:
    shed = client.post("/ocr/", data=IMAGE, content_type=content_type)
    by_flask = client.post("/ocr", data=IMAGE)
    assert (shed.status_code, shed.json["error_type"]) == (503, "queue_full")
    assert (shed.status_code, shed.data) == (by_flask.status_code, by_flask.data)
    assert set(shed.headers.keys()) == set(by_flask.headers.keys())
    for name in set(shed.headers.keys()) - OWN_HEADERS:
        assert shed.headers[name] == by_flask.headers[name]


def test_a_request_keeps_its_id(client: FlaskClient) -> None:
    reply = client.post(
        "/ocr", data=IMAGE, content_type="image/png", headers={"X-Request-Id": "Mine-7"}
    )
    assert (reply.status_code, reply.headers["X-Request-Id"]) == (503, "Mine-7")


def test_rejections_are_counted(client: FlaskClient) -> None:
    for content_type in ("image/png", None):
        client.post("/ocr", data=IMAGE, content_type=content_type)
    lines = client.get("/metrics").text.splitlines()
    assert 'qwen_captcha_requests_total{route="/ocr",status="503"} 2.0' in lines
    assert 'qwen_captcha_rejections_total{reason="queue_full"} 2.0' in lines


def test_a_dialect_is_rejected_in_the_dialect(client: FlaskClient) -> None:
    reply = client.post("/ocr", json={"image": base64.b64encode(IMAGE).decode()})
    assert (reply.status_code, list(reply.json)) == (503, ["detail"])


def test_a_stopping_service_has_that_reason(app: Flask, client: FlaskClient) -> None:
    app.extensions["captcha_service"].begin_drain()
    reply = client.post("/ocr", data=IMAGE, content_type="image/png")
    assert (reply.status_code, reply.json["error_type"]) == (503, "draining")
