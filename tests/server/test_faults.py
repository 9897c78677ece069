"""Faults of model, memory and process, seen by callers: they hit as few as can be, and pass."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import psutil
import pytest
import torch
from flask import Flask
from flask.testing import FlaskClient

from evaluation.load.synthetic_captchas import draw_captchas
from qwen_captcha.app import create_app
from qwen_captcha.backends.qwen2vl.preprocessing import Grid
from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend
from qwen_captcha.backends.qwen2vl.pytorch.vision_encoder import VisionEncoder
from qwen_captcha.scheduling.request_queue import FAILURES_UNTIL_BROKEN
from qwen_captcha.settings import load_settings
from tests.support.checkpoints import write_small_checkpoint
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    MAX_WAIT_S,
    Server,
    gunicorn_command,
    parse_reply,
    receive_all,
    running,
)

pytestmark = pytest.mark.live

CAPTCHAS = [image for image, _ in draw_captchas(6)]
LOADERS = 6


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """Return the service over a small checkpoint, ready, without a cache."""
    folder = write_small_checkpoint(tmp_path_factory.mktemp("small"))
    backend = PyTorchBackend(
        str(folder), model_name="small", use_gpu=False, min_pixels=3136, max_pixels=15680
    )
    app = create_app(load_settings({"CACHE_SIZE": "0"}), backend)
    service = app.extensions["captcha_service"]
    assert service.wait_until_loaded(MAX_WAIT_S)
    yield app
    service.begin_drain()


def read(client: FlaskClient) -> list[dict[str, object]]:
    files = [(io.BytesIO(image), "x.png") for image in CAPTCHAS]
    response = client.post("/batch-ocr", data={"images": files})
    assert response.status_code == 200
    return list(response.json["results"])


def said(client: FlaskClient) -> list[object]:
    """Return what the model says about each captcha; fails where it says nothing."""
    return [result["raw_response"] for result in read(client)]


def test_a_batch_that_does_not_fit_a_gpu_is_read_in_parts(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = said(client)
    encode, sizes = VisionEncoder.encode, []

    def encode_two(
        encoder: VisionEncoder, pixel_values: torch.Tensor, grids: Sequence[Grid]
    ) -> torch.Tensor:
        sizes.append(len(grids))
        if len(grids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return encode(encoder, pixel_values, grids)

    monkeypatch.setattr(VisionEncoder, "encode", encode_two)
    assert said(client) == before
    assert max(sizes) > 2
    assert client.get("/health").status_code == 200


def test_one_image_that_does_not_fit_has_a_retry_after(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(VisionEncoder, "encode", encode)
        response = client.post("/ocr", data=CAPTCHAS[0], content_type="image/png")
    assert (response.status_code, response.json["error_type"]) == (503, "out_of_memory")
    assert "Retry-After" in response.headers
    assert "CUDA" not in response.json["error"]
    assert client.post("/ocr", data=CAPTCHAS[0], content_type="image/png").status_code == 200


def not_finite(encoder: VisionEncoder, pixel_values: torch.Tensor, grids: object) -> torch.Tensor:
    return torch.full((1,), torch.nan)


def broken(*_: object) -> torch.Tensor:
    raise RuntimeError("a kernel failed at /opt/secret/path.cu")


@pytest.mark.parametrize("fault", [not_finite, broken], ids=["logits not finite", "model raises"])
def test_a_model_that_breaks_is_reported_and_recovers(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, fault: object
) -> None:
    before = said(client)
    with monkeypatch.context() as patch:
        patch.setattr(VisionEncoder, "encode", fault)
        results = read(client)
        assert {result["error_type"] for result in results} == {"internal_error"}
        assert not [result for result in results if result["success"] or "secret" in str(result)]
        assert len(results) >= FAILURES_UNTIL_BROKEN
        health = client.get("/health")
        assert (health.status_code, health.json["model_status"]) == (503, "failed")
    assert client.post("/ocr", data=CAPTCHAS[0], content_type="image/png").status_code == 200
    assert client.get("/health").status_code == 200
    assert said(client) == before


def ask(server: Server, width: int) -> str:
    """Return what came of one image: its status, `cut` or `refused`; swapped answers fail."""
    image = image_bytes(width)
    head = b"POST /ocr HTTP/1.1\r\nHost: captcha\r\nConnection: close\r\n"
    try:
        with socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S) as connection:
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(image) + image)
            data = receive_all(connection)
    except ConnectionRefusedError:
        return "refused"
    except ConnectionError:
        return "cut"
    if not data.endswith(b"}\n"):  # the end of every body
        return "cut"
    reply, _ = parse_reply(data)
    assert reply.status != 200 or reply.json["text"] == f"w{width}"
    assert isinstance(json.loads(reply.body), dict)
    return str(reply.status)


def test_a_worker_that_is_killed_under_load_is_back_and_no_client_hangs() -> None:
    outcomes: Counter[str] = Counter()
    over = threading.Event()

    def load(first: int) -> None:
        width = first
        while not over.is_set():
            outcome = ask(server, width)
            with lock:
                outcomes[outcome] += 1
            width = 200 + (width + LOADERS) % 600

    lock = threading.Lock()
    with running(
        gunicorn_command("tests.support.fake_backend:create_quick_app()"), CACHE_SIZE="0"
    ) as server:
        server.wait_until_ready()
        threads = [threading.Thread(target=load, args=(200 + n,)) for n in range(LOADERS)]
        for thread in threads:
            thread.start()
        [worker] = psutil.Process(server.process.pid).children()
        while outcomes["200"] < 50:
            time.sleep(0.01)
        worker.kill()
        server.wait_for_line("(Ready: reading[^$]*){2}")
        with lock:
            before = outcomes["200"]
        deadline = time.monotonic() + MAX_WAIT_S
        while outcomes["200"] < before + 50 and time.monotonic() < deadline:
            time.sleep(0.01)
        over.set()
        for thread in threads:
            thread.join(MAX_WAIT_S)
    assert outcomes["200"] >= before + 50
    # What the killed process had in hand is lost; a later client waited for the new one.
    assert outcomes["cut"] <= 2 * LOADERS, outcomes
    assert set(outcomes) <= {"200", "503", "cut"}
    assert not any(thread.is_alive() for thread in threads)
