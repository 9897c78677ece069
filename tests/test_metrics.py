from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from qwen_captcha import __version__
from qwen_captcha.metrics import process_totals
from qwen_captcha.service import CaptchaService
from tests.support.fake_backend import FakeBackend, image_bytes
from tests.support.live_server import (
    MAX_WAIT_S,
    Server,
    gunicorn_command,
    running,
)
from tests.support.waiting import wait_until

PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs" / "metrics.md").read_text(encoding="utf-8")
ROWS = {
    name: row
    for row in PAGE.splitlines()
    for name in re.findall(r"^\| `(qwen_captcha_\w+)` \|", row)
}
IMAGE = image_bytes(120)

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def families(text: str) -> dict[str, Metric]:
    """Parse an exposition; counters by the name that they have in it."""
    return {
        metric.name + ("_total" if metric.type == "counter" else ""): metric
        for metric in text_string_to_metric_families(text)
    }


def values_of(text: str) -> Values:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in families(text).values()
        for sample in metric.samples
    }


def value(values: Values, name: str, **labels: str) -> float:
    return values.get((f"qwen_captcha_{name}", frozenset(labels.items())), 0.0)


def scrape(client: FlaskClient) -> Values:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return values_of(response.text)


def use(client: FlaskClient) -> None:
    """Cause a value of every metric."""
    for _ in range(2):
        client.post("/ocr", data=IMAGE, content_type="image/png")
    client.post("/ocr?kind=digits", data=b"no image", content_type="image/png")


def test_every_metric_is_documented_with_its_type_labels_and_meaning(client: FlaskClient) -> None:
    use(client)
    found = families(client.get("/metrics").text)
    assert set(found) == set(ROWS)
    for name, metric in found.items():
        _, _, kind, labels, meaning, _ = ROWS[name].split("|")
        assert metric.type == kind.strip()
        shown = set(re.findall(r"`(\w+)`", labels))
        assert all(set(sample.labels) - {"le"} == shown for sample in metric.samples), name
        if "_process_" not in name:
            assert metric.documentation == meaning.strip()


@pytest.mark.live
@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_promtool_reports_no_problem(client: FlaskClient) -> None:
    use(client)
    check = subprocess.run(
        ["promtool", "check", "metrics"],
        input=client.get("/metrics").data,
        capture_output=True,
        check=False,
        timeout=MAX_WAIT_S,
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def test_requests_are_counted_by_route_and_status(client: FlaskClient) -> None:
    use(client)
    client.get("/nowhere")
    client.get("/ocr")
    found = scrape(client)
    assert value(found, "requests_total", route="/ocr", status="200") == 2
    assert value(found, "requests_total", route="/ocr", status="415") == 1
    assert value(found, "requests_total", route="unknown", status="404") == 1
    assert value(found, "requests_total", route="unknown", status="405") == 1
    assert value(found, "request_seconds_count", route="/ocr") == 3
    assert value(found, "requests_in_flight") == 1


def test_answers_are_counted_by_kind_outcome_and_cache(
    client: FlaskClient, backend: FakeBackend
) -> None:
    use(client)
    backend.respond = lambda task: "5/0"
    client.post("/ocr?kind=math", data=IMAGE, content_type="image/png")
    found = scrape(client)
    assert value(found, "answers_total", kind="auto", outcome="answered") == 2
    assert value(found, "answers_total", kind="math", outcome="no_answer") == 1
    assert value(found, "cache_total", result="miss") == 2
    assert value(found, "cache_total", result="hit") == 1
    assert value(found, "answer_confidence_count") == 2
    assert value(found, "answer_confidence_bucket", le="0.7") == 0
    assert value(found, "answer_confidence_bucket", le="0.8") == 2


def test_rejections_are_counted_by_reason_in_batches_and_dialects(
    client: FlaskClient,
) -> None:
    client.post("/ocr")
    client.post("/batch-ocr", json={"images_base64": ["$", "$"]})
    client.post("/ocr", data={"image": "$"})
    found = scrape(client)
    assert value(found, "rejections_total", reason="missing_image") == 1
    assert value(found, "rejections_total", reason="invalid_base64") == 3
    assert value(found, "requests_total", route="/ocr", status="200") == 1


def test_batches_are_measured(client: FlaskClient, app: Flask, backend: FakeBackend) -> None:
    service: CaptchaService = app.extensions["captcha_service"]
    backend.hold()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.post, "/ocr", data=IMAGE, content_type="image/png")
        backend.wait_until_reading()
        others = [
            pool.submit(
                app.test_client().post, "/ocr", data=image_bytes(width), content_type="image/png"
            )
            for width in (121, 122, 123)
        ]
        wait_until(lambda: (service.queue.admitted, service.queue.decoding) == (4, 0))
        waiting = scrape(app.test_client())
        backend.release()
        assert all(reply.result().status_code == 200 for reply in [first, *others])
    found = scrape(client)
    assert (value(waiting, "queue_depth"), value(found, "queue_depth")) == (3, 0)
    assert value(waiting, "requests_in_flight") == 5
    assert value(found, "batch_size_sum") == 4
    assert value(found, "batch_size_bucket", le="1.0") == 1
    assert value(found, "batch_size_bucket", le="4.0") == 2
    assert value(found, "inference_seconds_count") == 2
    assert value(found, "queue_seconds_count") == 4
    assert value(found, "queue_seconds_sum") > 0


def test_the_loaded_model_is_named(client: FlaskClient) -> None:
    labels = {
        "model": "fake-model", "backend": "torch", "device": "cpu", "version": __version__
    }  # fmt: skip
    assert value(scrape(client), "model_info", **labels) == 1


def test_process_totals_add_up() -> None:
    [one], [two] = ([m for m in process_totals(pids) if m.name.endswith("memory_bytes")][:1]
                    for pids in (["self"], ["self", str(os.getpid())]))  # fmt: skip
    assert two.samples[0].value == pytest.approx(2 * one.samples[0].value, rel=0.01)
    [start], [starts] = ([m for m in process_totals(pids) if m.name.endswith("start_time_seconds")]
                         for pids in (["self"], ["self", "self"]))  # fmt: skip
    assert starts.samples[0].value == start.samples[0].value
    assert process_totals(["0"]) == []


def ask(server: Server, path: str, data: bytes | None = None) -> str:
    """Send one request over a connection of its own, so that any worker may take it."""
    url = f"http://127.0.0.1:{server.port}{path}"
    headers = {"Connection": "close"}
    if data is None:
        return requests.get(url, headers=headers, timeout=MAX_WAIT_S).text
    return requests.post(url, data=data, headers=headers, timeout=MAX_WAIT_S).text


def workers_of(server: Server) -> list[int]:
    listed = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


@pytest.mark.live
def test_any_worker_reports_the_metrics_of_all() -> None:
    command = (*gunicorn_command("tests.support.fake_backend:create_quick_app()"), "--workers", "2")
    with running(command) as server:
        server.wait_until_ready()
        server.wait_for_line("(?s)Ready: reading.*Ready: reading")
        for width in range(100, 120):
            assert "true" in ask(server, "/ocr", image_bytes(width))
        scrapes = [values_of(ask(server, "/metrics")) for _ in range(6)]
        for found in scrapes:
            assert value(found, "requests_total", route="/ocr", status="200") == 20
            assert value(found, "answers_total", kind="auto", outcome="answered") == 20
            assert value(found, "workers") == 2
            assert value(found, "process_resident_memory_bytes") > 0
            assert value(found, "requests_in_flight") == 1
        first, *_ = workers_of(server)
        os.kill(first, signal.SIGKILL)
        server.wait_for_line("(?s)Ready: reading.*Ready: reading.*Ready: reading")
        found = values_of(ask(server, "/metrics"))
        assert value(found, "requests_total", route="/ocr", status="200") == 20
        assert value(found, "workers") == 2
        if shutil.which("promtool"):
            text = ask(server, "/metrics").encode()
            check = ["promtool", "check", "metrics"]
            subprocess.run(check, input=text, check=True, timeout=MAX_WAIT_S)


@pytest.mark.live
def test_the_shared_numbers_are_removed_at_the_end() -> None:
    with running(gunicorn_command("tests.support.fake_backend:create_quick_app()")) as server:
        server.wait_until_ready()
        maps = Path(f"/proc/{workers_of(server)[0]}/maps").read_text()
        [folder] = set(re.findall(r"(/\S+/qwen-captcha-metrics-\w+)/", maps))
        assert Path(folder).is_dir()
    assert not Path(folder).exists()


@pytest.mark.live
def test_a_start_on_a_taken_port_leaves_no_files() -> None:
    before = set(Path("/dev/shm").glob("qwen-captcha-metrics-*"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = gunicorn_command("tests.support.fake_backend:create_quick_app()")
        with running(command, PORT=str(taken.getsockname()[1])) as server:
            assert server.wait_for_end() == 1
    assert "Can't connect" in "\n".join(server.lines)
    assert set(Path("/dev/shm").glob("qwen-captcha-metrics-*")) <= before
