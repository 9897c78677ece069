from __future__ import annotations

import json
import threading

import pytest

from evaluation.load.workloads import (
    cached_latencies,
    concurrent_clients,
    read_in_batches,
)
from evaluation.services.client import ServiceClient, ServiceError
from tests.support.stub_service import (
    Call,
    Reply,
    stub_service,
)

IMAGES = [f"image {index}".encode() for index in range(10)]


def answer_to(image: bytes) -> dict[str, object]:
    return {"success": True, "text": image.decode(), "confidence": 0.5}


def rejection(error_type: str) -> dict[str, object]:
    return {"success": False, "text": "", "confidence": 0.0, "error_type": error_type}


def test_batches_have_the_requested_size_and_order() -> None:
    sizes: list[int] = []

    def script(call: Call) -> tuple[int, bytes]:
        images = [part.split(b"\r\n")[0] for part in call.body.split(b"\r\n\r\n")[1:]]
        sizes.append(len(images))
        return 200, json.dumps({"results": [answer_to(image) for image in images]}).encode()

    with stub_service(script) as url, ServiceClient(url) as client:
        answers = read_in_batches(client, IMAGES, 4)
    assert sizes == [4, 4, 2]
    assert [answer.text.encode() for answer in answers] == IMAGES


def test_concurrent_requests_overlap_and_keep_the_order() -> None:
    # Each reply waits until as many requests have arrived as there are callers.
    together = threading.Barrier(5, timeout=10)
    connections: set[int] = set()

    def script(call: Call) -> tuple[int, bytes]:
        connections.add(call.connection)
        together.wait()
        return 200, json.dumps(answer_to(call.body)).encode()

    with stub_service(script) as url, concurrent_clients(url, 5) as clients:
        first = clients.read(IMAGES)
        second = clients.read(IMAGES[:5])
    assert [answer.text.encode() for answer in first] == IMAGES
    assert [answer.text.encode() for answer in second] == IMAGES[:5]
    assert len(connections) == 5


@pytest.mark.parametrize("error_type", ["queue_full", "undecodable_image"])
def test_a_rejected_image_ends_the_measurement(error_type: str) -> None:
    def script(call: Call) -> tuple[int, bytes]:
        refused = call.body == IMAGES[7]
        return 200, json.dumps(rejection(error_type) if refused else answer_to(call.body)).encode()

    with (
        stub_service(script) as url,
        concurrent_clients(url, 3) as clients,
        pytest.raises(ServiceError, match=f"rejected an image: {error_type}"),
    ):
        clients.read(IMAGES)


def test_a_reading_without_a_usable_answer_counts() -> None:
    body = json.dumps({"results": [rejection("no_answer")] * 2}).encode()
    with stub_service(lambda _: (200, body)) as url, ServiceClient(url) as client:
        answers = read_in_batches(client, IMAGES[:2], 2)
    assert [answer.error_type for answer in answers] == ["no_answer", "no_answer"]


def test_cached_latencies_fill_the_cache_first_and_then_take_turns() -> None:
    calls: list[str] = []

    def script(call: Call) -> Reply:
        use = "hit" if calls else "miss"
        calls.append(call.path)
        return 200, json.dumps(answer_to(call.body)).encode(), {"X-Cache": use}

    with stub_service(script) as url, ServiceClient(url) as client:
        cached_s, health_s = cached_latencies(client, IMAGES[0], 3)
    assert calls == ["/ocr", *["/health", "/ocr"] * 3]
    assert cached_s > 0
    assert health_s > 0


@pytest.mark.parametrize(
    ("cache_use", "load", "message"),
    [
        pytest.param("hit", "batch", "must not be hit, but it is hit", id="batch"),
        pytest.param("hit", "clients", "must not be hit, but it is hit", id="clients"),
        pytest.param("miss", "cached", "must be hit, but it is miss", id="cached"),
    ],
)
def test_an_unexpected_cache_header_ends_the_measurement(
    cache_use: str, load: str, message: str
) -> None:
    def script(call: Call) -> Reply:
        body = answer_to(IMAGES[0]) if call.path == "/ocr" else {"results": [answer_to(IMAGES[0])]}
        return 200, json.dumps(body).encode(), {"X-Cache": cache_use}

    loads = {
        "batch": lambda client, _: read_in_batches(client, IMAGES[:1], 1),
        "clients": lambda _, clients: clients.read(IMAGES[:1]),
        "cached": lambda client, _: cached_latencies(client, IMAGES[0], 1),
    }
    with (
        stub_service(script) as url,
        ServiceClient(url) as client,
        concurrent_clients(url, 2) as clients,
        pytest.raises(ServiceError, match=message),
    ):
        loads[load](client, clients)
