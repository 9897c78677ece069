from __future__ import annotations

import json
from email.parser import BytesParser
from email.policy import HTTP

import pytest

from evaluation.services.client import (
    Answer,
    ServiceClient,
    ServiceError,
    answer_of,
)
from tests.support.stub_service import Call, stub_service

RIGHT = {"success": True, "text": "a3b9", "confidence": 0.97, "raw_response": "a3b9"}


@pytest.mark.parametrize(
    ("warnings", "kept"),
    [(["one", "two"], ("one", "two")), ([], ()), (None, ()), ("no list", ())],
)
def test_warnings_of_a_reply(warnings: object, kept: tuple[str, ...]) -> None:
    assert answer_of({**RIGHT, "warnings": warnings}).warnings == kept


def test_an_image_is_the_raw_body_of_ocr() -> None:
    calls: list[Call] = []

    def script(call: Call) -> tuple[int, bytes]:
        calls.append(call)
        return 200, json.dumps(RIGHT).encode()

    with stub_service(script) as url, ServiceClient(url) as client:
        answer, exchange = client.ocr(b"image", "image/gif")
    assert answer == Answer("a3b9", 0.97, True, "a3b9", None)
    assert (exchange.status, exchange.fields) == (200, RIGHT)
    assert exchange.latency_s > 0
    assert exchange.cache_use is None
    (call,) = calls
    assert (call.method, call.path, call.body) == ("POST", "/ocr", b"image")
    assert call.headers["Content-Type"] == "image/gif"


def test_a_path_in_the_base_url_is_used() -> None:
    with (
        stub_service(lambda call: (200, json.dumps({"path": call.path}).encode())) as url,
        ServiceClient(f"{url}/captcha/") as client,
    ):
        assert client.health().fields == {"path": "/captcha/health"}


def test_a_batch_is_multipart_and_keeps_its_order() -> None:
    images = [b"\x00\r\n--one", b"two", b""]

    def script(call: Call) -> tuple[int, bytes]:
        header = f"Content-Type: {call.headers['Content-Type']}\r\n\r\n".encode()
        form = BytesParser(policy=HTTP).parsebytes(header + call.body)
        results = [
            {
                "filename": part.get_filename(),
                "text": f"{part.get_param('name', header='content-disposition')}"
                f" {part.get_payload(decode=True)!r}",
                "success": True,
                "confidence": 1,
            }
            for part in form.iter_parts()
        ]
        return 200, json.dumps({"success": True, "results": results}).encode()

    with stub_service(script) as url, ServiceClient(url) as client:
        answers, exchange = client.batch_ocr(images)
    assert [answer.text for answer in answers] == [f"images {image!r}" for image in images]
    results = exchange.fields["results"]
    assert isinstance(results, list)
    assert [result["filename"] for result in results] == ["0.png", "1.png", "2.png"]


def test_requests_share_a_connection() -> None:
    def script(call: Call) -> tuple[int, bytes]:
        return 200, json.dumps({"connection": call.connection}).encode()

    with stub_service(script) as url, ServiceClient(url) as client:
        assert client.health().fields == client.health().fields


def test_a_connection_that_went_stale_is_opened_again() -> None:
    def script(call: Call) -> tuple[int, bytes]:
        return 200, json.dumps({"connection": call.connection}).encode()

    with stub_service(script, hang_up_after_reply=True) as url, ServiceClient(url) as client:
        assert client.health().fields != client.health().fields


def test_a_rejection_is_returned_and_not_raised() -> None:
    rejection = {
        "success": False,
        "text": "",
        "confidence": 0.0,
        "error": "The image cannot be decoded.",
        "error_type": "undecodable_image",
    }
    with (
        stub_service(lambda _: (422, json.dumps(rejection).encode())) as url,
        ServiceClient(url) as client,
    ):
        answer, exchange = client.ocr(b"no image")
    assert answer == Answer("", 0.0, False, None, "undecodable_image")
    assert exchange.status == 422


@pytest.mark.parametrize(
    "body", [b"<html>502</html>", b'["a3b9"]', b"a3b9", b"", b"\xff\xfe"], ids=repr
)
def test_a_reply_that_is_no_object_is_a_broken_service(body: bytes) -> None:
    with (
        stub_service(lambda _: (200, body)) as url,
        ServiceClient(url) as client,
        pytest.raises(ServiceError, match="/ocr: not a JSON object"),
    ):
        client.ocr(b"image")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"error": "Too many images."}, "Too many images", id="refused"),
        pytest.param({"results": [RIGHT]}, "a3b9", id="one-result-for-two-images"),
        pytest.param({"results": "a3b9"}, "batch-ocr", id="no-list"),
    ],
)
def test_a_batch_without_a_result_an_image_is_rejected(
    fields: dict[str, object], message: str
) -> None:
    with (
        stub_service(lambda _: (200, json.dumps(fields).encode())) as url,
        ServiceClient(url) as client,
        pytest.raises(ServiceError, match=message),
    ):
        client.batch_ocr([b"one", b"two"])


@pytest.mark.parametrize("confidence", [1.2, -0.1, "high", None, float("nan")])
def test_a_confidence_that_is_no_probability_is_rejected(confidence: object) -> None:
    with pytest.raises(ServiceError, match="no probability"):
        answer_of({"text": "a3b9", "success": True, "confidence": confidence})


def test_no_listener_is_one_line() -> None:
    with stub_service(lambda _: (200, b"{}")) as url:
        pass
    with (
        ServiceClient(url) as client,
        pytest.raises(ServiceError, match="does not answer") as raised,
    ):
        client.health()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:5000", "ftp://127.0.0.1", "http://", "", "http://127.0.0.1:port"]
)
def test_misuse_of_the_url(url: str) -> None:
    with pytest.raises(ServiceError, match=r"is not an address|no usable port"):
        ServiceClient(url)


def test_the_cache_header_is_passed_on() -> None:
    with (
        stub_service(lambda _: (200, b"{}", {"X-Cache": "hit"})) as url,
        ServiceClient(url) as client,
    ):
        assert client.health().cache_use == "hit"
