"""POST /feedback, and what the routes collect for it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from qwen_captcha.app import create_app
from qwen_captcha.collecting.labels import Label, LabelFolder, Mark
from qwen_captcha.settings import load_settings
from tests.api.openapi.test_document import check_against
from tests.support.fake_backend import MAX_WAIT_S, FakeBackend, image_bytes

IMAGE = image_bytes(120)
KEY = "a-key-of-this-test-0123456789"
ClientFactory = Callable[..., FlaskClient]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "collected"


@pytest.fixture
def start(backend: FakeBackend, folder: Path) -> Iterator[ClientFactory]:
    """Return the client of a ready application that collects."""
    services = []

    def make(**variables: str) -> FlaskClient:
        app = create_app(load_settings({"COLLECT_DIR": str(folder), **variables}), backend)
        services.append(app.extensions["captcha_service"])
        assert services[-1].wait_until_loaded(MAX_WAIT_S)
        return app.test_client()

    yield make
    for service in services:
        service.begin_drain()
        if service.collector is not None:
            service.collector.close()


@pytest.fixture
def client(start: ClientFactory) -> FlaskClient:
    return start()


def say(client: FlaskClient, request_id: str, correct: object = True, **fields: object) -> Any:
    return client.post("/feedback", json={"request_id": request_id, "correct": correct, **fields})


def labels(folder: Path) -> list[str]:
    return [label.text for label in LabelFolder(folder).read().labels.values()]


def test_a_confirmed_answer_becomes_a_label(client: FlaskClient, folder: Path) -> None:
    answer = client.post("/ocr", data=IMAGE)
    reply = say(client, answer.headers["X-Request-Id"])
    assert (reply.status_code, reply.json) == (200, {"success": True})
    [(file, label)] = LabelFolder(folder).read().labels.items()
    assert label == Label("w120")
    assert (folder / file).read_bytes() == IMAGE


def test_a_wrong_answer_is_corrected_or_marked(client: FlaskClient, folder: Path) -> None:
    ids = [
        client.post("/ocr", data=image_bytes(width)).headers["X-Request-Id"] for width in (120, 130)
    ]
    assert say(client, ids[0], False, text="abcd").status_code == 200
    assert say(client, ids[1], False).status_code == 200
    assert labels(folder) == ["abcd"]
    assert list(LabelFolder(folder).read().marks.values()) == [Mark.WRONG]


def test_each_image_of_a_batch_has_an_id_of_its_own(client: FlaskClient, folder: Path) -> None:
    texts = [base64.b64encode(image_bytes(width)).decode() for width in (120, 130)]
    batch = {"images_base64": [texts[0], "$", texts[1]]}
    reply = client.post("/batch-ocr", json=batch, headers={"X-Request-Id": "mine"})
    assert reply.headers["X-Request-Id"] == "mine"
    assert [say(client, f"mine#{number}").status_code for number in (1, 2, 3, 4)] == [
        200, 404, 200, 404,
    ]  # fmt: skip
    assert say(client, "mine").status_code == 404
    assert sorted(labels(folder)) == ["w120", "w130"]


def test_answers_of_dialects_and_of_the_cache_are_collected(
    client: FlaskClient, folder: Path
) -> None:
    file = {"file": (io.BytesIO(IMAGE), "x.png")}
    replies = [
        client.post("/ocr", data=file),
        client.post("/ocr/b64/text", data=base64.b64encode(IMAGE)),
        client.post("/ocr", data=IMAGE),
    ]
    assert [reply.headers["X-Cache"] for reply in replies] == ["miss", "hit", "hit"]
    for reply in replies:
        assert say(client, reply.headers["X-Request-Id"]).status_code == 200
    assert labels(folder) == ["w120"]


def test_an_image_without_an_answer_is_collected_to_be_labelled(
    client: FlaskClient, backend: FakeBackend, folder: Path
) -> None:
    backend.respond = lambda task: ""
    answer = client.post("/ocr", data=IMAGE)
    assert answer.json["error_type"] == "no_answer"
    request_id = answer.headers["X-Request-Id"]
    assert say(client, request_id, True).status_code == 400
    assert say(client, request_id, False, text="abcd").status_code == 200
    assert labels(folder) == ["abcd"]


def test_data_that_is_no_image_is_not_collected(client: FlaskClient, folder: Path) -> None:
    reply = client.post("/ocr", data=b"text", content_type="image/png")
    assert say(client, reply.headers["X-Request-Id"]).status_code == 404
    assert {path.name for path in folder.iterdir()} <= {".labels.lock", "collected.sqlite3"}


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", None])
def test_json_is_json_under_any_content_type(client: FlaskClient, content_type: str | None) -> None:
    request_id = client.post("/ocr", data=IMAGE).headers["X-Request-Id"]
    body = json.dumps({"request_id": request_id, "correct": True})
    assert client.post("/feedback", data=body, content_type=content_type).status_code == 200


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not valid JSON"),
        (b"[]", "JSON object"),
        (b"{}", "request_id"),
        (b'{"request_id":"","correct":true}', "request_id"),
        (b'{"request_id":7,"correct":true}', "request_id"),
        (b'{"request_id":"a b","correct":true}', "request_id"),
        (b'{"request_id":"a#","correct":true}', "request_id"),
        (b'{"request_id":"a#1#2","correct":true}', "request_id"),
        (b'{"request_id":"\\ud800","correct":true}', "request_id"),
        (b'{"request_id":"a"}', "correct must be"),
        (b'{"request_id":"a","correct":"true"}', "correct must be"),
        (b'{"request_id":"a","correct":1}', "correct must be"),
        (b'{"request_id":"a","correct":true,"text":5}', "text must be"),
    ],
)
def test_a_malformed_feedback_is_the_error_object(
    client: FlaskClient, body: bytes, reason: str
) -> None:
    reply = client.post("/feedback", data=body)
    assert (reply.status_code, reply.json["error_type"]) == (400, "bad_request")
    assert reason in reply.json["error"]


def test_a_label_that_cannot_be_one_is_rejected(client: FlaskClient, folder: Path) -> None:
    request_id = client.post("/ocr", data=IMAGE).headers["X-Request-Id"]
    for text in ("a\tb", "x" * 65, "\ud800"):
        body = json.dumps({"request_id": request_id, "correct": False, "text": text})
        reply = client.post("/feedback", data=body)
        assert (reply.status_code, reply.json["error_type"]) == (400, "bad_request")
    assert labels(folder) == []


def test_an_unknown_id_is_a_404_of_its_own(client: FlaskClient) -> None:
    reply = say(client, "unknown")
    assert (reply.status_code, reply.json["error_type"]) == (404, "unknown_request")
    assert set(reply.json) == {"success", "text", "confidence", "error", "error_type"}


def test_without_the_setting_there_is_no_such_route(start: ClientFactory, folder: Path) -> None:
    client = start(COLLECT_DIR="")
    client.post("/ocr", data=IMAGE)
    reply = say(client, "any")
    assert (reply.status_code, reply.json["error_type"]) == (404, "not_found")
    assert not folder.exists()


def test_keys_and_rates_are_those_of_every_route(start: ClientFactory) -> None:
    client = start(API_KEYS=KEY, RATE_LIMIT_PER_KEY="2/hour")
    assert say(client, "any").status_code == 401
    fields = {"request_id": "any", "correct": True}
    statuses = [
        client.post("/feedback", json=fields, headers={"X-API-Key": KEY}).status_code
        for _ in range(3)
    ]
    assert statuses == [404, 404, 429]


def test_a_missing_folder_does_not_stop_answers(client: FlaskClient, folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    answer = client.post("/ocr", data=IMAGE)
    assert (answer.status_code, answer.json["text"]) == (200, "w120")
    reply = say(client, answer.headers["X-Request-Id"])
    assert (reply.status_code, reply.json["error_type"]) == (503, "unavailable")
    assert reply.headers["Retry-After"]
    assert str(folder) not in reply.text
    assert 'qwen_captcha_collected_total{outcome="failed"} 1.0' in client.get("/metrics").text


def test_replies_are_those_of_the_description(client: FlaskClient, backend: FakeBackend) -> None:
    document = client.get("/openapi.json").json
    request_id = client.post("/ocr", data=IMAGE).headers["X-Request-Id"]
    for reply in (say(client, request_id), say(client, "unknown"), say(client, "", None)):
        check_against(document, reply.json, "/feedback", "post", reply.status_code)
