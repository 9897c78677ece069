from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from qwen_captcha.api.request_logging import server_timing
from qwen_captcha.app import create_app
from qwen_captcha.logs import JsonFormatter, TextFormatter
from qwen_captcha.recognition.answer import Answer
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import (
    MAX_WAIT_S,
    FakeBackend,
    image_bytes,
)
from tests.support.live_server import (
    gunicorn_command,
    running,
    send_and_close,
)

IMAGE = image_bytes(120)
SECRETS = ("w120", "secret", "captcha.png")


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """Collect what the service logs, each line as its JSON object."""
    lines: list[dict[str, Any]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonFormatter().format(record)))

    logger, collector = logging.getLogger("qwen_captcha"), Collector()
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    yield lines
    logger.removeHandler(collector)
    logger.setLevel(logging.NOTSET)


def test_a_request_id_is_passed_on(client: FlaskClient) -> None:
    response = client.post("/ocr", data=IMAGE, headers={"X-Request-Id": "trace-1:2/a"})
    assert response.headers["X-Request-Id"] == "trace-1:2/a"


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "<script>", "ä"])
def test_an_id_that_is_none_is_replaced(client: FlaskClient, given: str) -> None:
    ids = {
        client.post("/ocr", data=IMAGE, headers={"X-Request-Id": given}).headers["X-Request-Id"]
        for _ in range(2)
    }
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", found) for found in ids)


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/ocr", "/metrics", "/set_charset_range"])
def test_every_reply_has_an_id_and_its_time(client: FlaskClient, path: str) -> None:
    response = client.post(path) if path.startswith("/set") else client.get(path)
    assert response.headers["X-Request-Id"]
    assert re.fullmatch(r"total;dur=\d+\.\d{3}", response.headers["Server-Timing"])


def durations(header: str) -> dict[str, float]:
    return {
        name: float(value) for name, value in (part.split(";dur=") for part in header.split(", "))
    }


def test_a_cached_answer_has_no_queue_or_inference_time(client: FlaskClient) -> None:
    fresh, kept = (
        durations(client.post("/ocr", data=IMAGE).headers["Server-Timing"]) for _ in range(2)
    )
    assert list(fresh) == ["queue", "inference", "total"]
    assert fresh["inference"] > 0
    assert fresh["queue"] + fresh["inference"] <= fresh["total"]
    assert (kept["queue"], kept["inference"]) == (0, 0)


def test_the_slowest_image_of_a_batch_counts() -> None:
    answers = [
        Answer("a", 1.0, True, "a", queue_s=0.001, inference_s=0.03),
        Answer("b", 1.0, True, "b", queue_s=0.02, inference_s=0.01),
    ]
    assert server_timing(answers, 0.1) == (
        "queue;dur=20.000, inference;dur=30.000, total;dur=100.000"
    )


def test_a_request_is_one_line_without_image_answer_or_prompt(
    client: FlaskClient, lines: list[dict[str, Any]]
) -> None:
    files = {"image": (io.BytesIO(IMAGE), "captcha.png"), "prompt": "secret"}
    client.post("/ocr?prompt=secret", data=files, headers={"X-Request-Id": "r1"})
    [line] = [line for line in lines if "route" in line]
    assert not any(secret in json.dumps(line) for secret in SECRETS)
    assert (line["message"], line["level"], line["request_id"]) == ("POST /ocr", "info", "r1")
    assert (line["route"], line["status"], line["cache"]) == ("/ocr", 200, "miss")
    assert (line["images"], line["no_answer"]) == (1, 0)
    assert line["duration_ms"] >= line["queue_ms"] + line["inference_ms"] > 0
    assert line["bytes_in"] > len(IMAGE)
    assert line["time"].endswith("+00:00")


def test_answers_are_logged_with_the_setting(
    backend: FakeBackend, lines: list[dict[str, Any]]
) -> None:
    app = create_app(load_settings({"LOG_ANSWERS": "true"}), backend)
    assert app.extensions["captcha_service"].wait_until_loaded(MAX_WAIT_S)
    app.test_client().post("/ocr", data=IMAGE)
    [line] = [line for line in lines if "route" in line]
    assert line["answers"] == [{"text": "w120", "raw": "w120", "confidence": 0.778801}]
    app.extensions["captcha_service"].begin_drain()


def test_an_error_is_named(client: FlaskClient, lines: list[dict[str, Any]]) -> None:
    client.post("/ocr", data={"image": "$"})
    client.get("/nowhere/secret")
    bad, unknown = (line for line in lines if "route" in line)
    assert (bad["status"], bad["error_type"]) == (200, "invalid_base64")
    assert (unknown["route"], unknown["error_type"]) == ("unknown", "not_found")
    assert "secret" not in json.dumps(unknown)


def test_probes_are_not_logged(client: FlaskClient, lines: list[dict[str, Any]]) -> None:
    for path in ("/health", "/livez", "/readyz", "/metrics", "/ping"):
        client.get(path)
    assert {line["level"] for line in lines} == {"debug"}


def test_other_lines_of_a_request_have_its_id(app: Flask, lines: list[dict[str, Any]]) -> None:
    def fail() -> None:
        raise ValueError("a bug")

    app.add_url_rule("/fail", view_func=fail)
    client = app.test_client()
    client.get("/fail", headers={"X-Request-Id": "r2"})
    bug, line = lines
    assert (bug["message"], bug["request_id"]) == ("A request failed.", "r2")
    assert "ValueError: a bug" in bug["exception"]
    assert line["request_id"] == "r2"


def test_a_line_in_text_format() -> None:
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "POST %s", ("/ocr",), None)
    record.fields = {"status": 200, "cache": "hit"}
    line = TextFormatter().format(record)
    assert re.fullmatch(r"\S+ \S+ INFO POST /ocr status=200 cache=hit", line)


@pytest.mark.live
def test_a_service_that_is_not_in_a_terminal_logs_json() -> None:
    head = b"POST /ocr HTTP/1.1\r\nHost: x\r\nX-Request-Id: r3\r\nContent-Length: %d\r\n\r\n"
    request = head % len(IMAGE) + IMAGE
    with running(
        gunicorn_command("tests.support.fake_backend:create_quick_app()"), LOG_FORMAT="auto"
    ) as server:
        server.wait_until_ready()
        [reply] = send_and_close(server.port, [request])
        server.wait_for_line('"request_id": "r3"')
    assert reply.headers["x-request-id"] == "r3"
    found = [json.loads(line) for line in server.lines]
    assert [line["status"] for line in found if line["message"] == "POST /ocr"] == [200]
