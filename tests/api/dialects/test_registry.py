"""The dialects of ddddocr's servers, spoken by `requests` as those servers' own clients do."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient

from qwen_captcha.api.dialects.base import option_fields
from qwen_captcha.api.dialects.registry import dialect_of
from qwen_captcha.api.request_parsing import Body
from qwen_captcha.app import create_app
from qwen_captcha.recognition.answer import NONE_OF_COLORS, Answer, probabilities
from qwen_captcha.recognition.constraints import UNRESTRICTED
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import FakeBackend, image_bytes
from tests.support.live_server import gunicorn_command, running

IMAGE = image_bytes(120)
BASE64 = base64.b64encode(IMAGE).decode()
BASE64_OF_JSON = base64.b64encode(json.dumps({"image": BASE64}).encode()).decode()
NOTE = b"this is a text"
NOTE_BASE64 = base64.b64encode(NOTE).decode()
API_REQUEST = {"image": BASE64, "probability": False, "colors": [], "custom_color_ranges": None}
FASTAPI_FORM = {"probability": "false", "charsets": "", "png_fix": "true"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(gunicorn_command("tests.support.fake_backend:create_quick_app()")) as server:
        server.wait_until_ready()
        yield f"http://127.0.0.1:{server.port}"


def post(url: str, **request: Any) -> requests.Response:
    # A redirect would be one more request for the caller, and a page of HTML.
    return requests.post(url, timeout=30, allow_redirects=False, **request)


@pytest.mark.live
class TestDdddocrApi:
    """`ddddocr api` 1.6, as its documentation and its request models have it."""

    @pytest.mark.parametrize("query", ["", "?ocr=true&beta=true&use_gpu=false&show_ad=false"])
    def test_json(self, url: str, query: str) -> None:
        reply = post(f"{url}/ocr{query}", json=API_REQUEST)
        body = reply.json()
        assert (reply.status_code, list(body)) == (
            200,
            ["result", "probability", "processing_time"],
        )
        assert (body["result"], body["probability"]) == ("w120", None)
        assert isinstance(body["processing_time"], float)
        assert reply.headers["X-Cache"] in ("hit", "miss")

    def test_a_file(self, url: str) -> None:
        form = {"probability": "false", "colors": "[]", "custom_color_ranges": "null"}
        reply = post(f"{url}/ocr/file", files={"file": ("captcha.png", IMAGE)}, data=form)
        assert reply.json()["result"] == "w120"
        assert "warnings" not in reply.json()

    @pytest.mark.parametrize("sent", ["json", "file"])
    def test_the_documented_loop_over_probabilities_gives_the_text(
        self, url: str, sent: str
    ) -> None:
        if sent == "json":
            reply = post(f"{url}/ocr", json={**API_REQUEST, "probability": True})
        else:
            files, form = {"file": IMAGE}, {"probability": "true"}
            reply = post(f"{url}/ocr/file", files=files, data=form)
        result = reply.json()["result"]
        text = "".join(result["charsets"][row.index(max(row))] for row in result["probability"])
        assert text == result["text"] == "w120"
        assert len(reply.content) < 1000

    @pytest.mark.parametrize("color", ["black", "white"])
    def test_characters_of_some_colors_are_read(self, url: str, color: str) -> None:
        body = post(f"{url}/ocr", json={**API_REQUEST, "colors": [color]}).json()
        assert body["result"] == ("w120" if color == "black" else "")
        form = {"colors": f'["{color}"]', "custom_color_ranges": "null"}
        reply = post(f"{url}/ocr/file", data=form, files={"file": IMAGE}).json()
        assert reply["result"] == body["result"]

    def test_a_color_without_pixels_is_reported(self, url: str) -> None:
        body = post(f"{url}/ocr", json={**API_REQUEST, "colors": ["red"]}).json()
        assert (body["result"], body["warnings"]) == ("", [NONE_OF_COLORS])

    @pytest.mark.parametrize(
        ("path", "request_", "status"),
        [
            ("/ocr", {"json": {"image": NOTE_BASE64}}, 415),
            ("/ocr", {"json": {"image": "$"}}, 400),
            ("/ocr", {"json": {"image": 5}}, 400),
            ("/ocr", {"json": {"image": BASE64, "probability": "maybe"}}, 400),
            ("/ocr", {"json": {"image": BASE64, "charset_range": 9}}, 400),
            ("/ocr", {"json": {"image": BASE64, "colors": ["brown"]}}, 400),
            ("/ocr", {"json": {"image": BASE64, "custom_color_ranges": {"a": [[1]]}}}, 400),
            ("/ocr/file", {"files": {"file": NOTE}}, 415),
            ("/ocr/file", {"files": {"file": b""}}, 400),
            ("/ocr/file", {"files": {"photo": IMAGE, "logo": IMAGE}}, 400),
            ("/ocr/file", {"files": {"file": bytes(11 << 20)}}, 413),
            ("/ocr/file", {"files": {"file": bytes(65 << 20)}}, 413),
            ("/set_charset_range", {"json": {"charset_range": ["0", "1"]}}, 410),
        ],
    )
    def test_errors_have_a_detail_and_a_status(
        self, url: str, path: str, request_: dict[str, Any], status: int
    ) -> None:
        reply = post(url + path, **request_)
        assert (reply.status_code, list(reply.json())) == (status, ["detail"])
        assert reply.json()["detail"].endswith((".", "request."))

    def test_the_setting_of_all_callers_names_the_option_of_one(self, url: str) -> None:
        detail = post(f"{url}/set_charset_range", json={"charset_range": ["0"]}).json()["detail"]
        assert "charset_range" in detail
        assert "each request" in detail


@pytest.mark.live
class TestOcrApiServer:
    """ocr_api_server, as the script `test_api.py` of that project calls it."""

    @pytest.mark.parametrize("path", ["/ocr/file", "/ocr/file/text"])
    def test_a_file_gives_the_bare_text(self, url: str, path: str) -> None:
        reply = post(url + path, files={"image": IMAGE})
        assert (reply.status_code, reply.text) == (200, "w120")

    def test_a_file_gives_an_object(self, url: str) -> None:
        reply = post(f"{url}/ocr/file/json", files={"image": IMAGE})
        assert reply.json() == {"status": 200, "result": "w120", "msg": ""}

    @pytest.mark.parametrize("sent", [BASE64, BASE64_OF_JSON], ids=["base64", "base64 of JSON"])
    def test_base64_is_the_body(self, url: str, sent: str) -> None:
        assert post(f"{url}/ocr/b64", data=sent).text == "w120"
        assert post(f"{url}/ocr/b64/text", data=sent).text == "w120"
        reply = post(f"{url}/ocr/b64/json", data=sent)
        assert reply.json() == {"status": 200, "result": "w120", "msg": ""}

    @pytest.mark.parametrize(
        "sent",
        [
            {"json": {"image": BASE64}},
            {"data": json.dumps({"image": BASE64})},
            {"json": BASE64},
            {"data": {"image": BASE64}},
            {"data": IMAGE},
            {"files": {"image": IMAGE}},
            {"data": BASE64.replace("+", " ").replace("/", "%2F")},
        ],
        ids=["json", "json without type", "json text", "form", "image", "file", "escaped"],
    )
    def test_every_form_of_one_image(self, url: str, sent: dict[str, Any]) -> None:
        assert post(f"{url}/ocr/b64", **sent).text == "w120"

    def test_base64_that_curl_calls_a_form(self, url: str) -> None:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert post(f"{url}/ocr/b64", data=BASE64, headers=headers).text == "w120"

    @pytest.mark.parametrize(
        ("path", "request_"),
        [
            ("/ocr/file", {"files": {"image": NOTE}}),
            ("/ocr/file", {"files": {"image": bytes(11 << 20)}}),
            ("/ocr/b64", {"data": "$"}),
            ("/ocr/b64", {"data": b""}),
            ("/ocr/b64", {"data": NOTE_BASE64}),
            ("/ocr/b64", {"data": base64.b64encode(b'{"image": 5}')}),
            ("/ocr/b64", {"data": base64.b64encode(b"{")}),
        ],
    )
    def test_errors_are_an_empty_text_or_a_message(
        self, url: str, path: str, request_: dict[str, Any]
    ) -> None:
        reply = post(url + path, **request_)
        assert (reply.status_code, reply.content) == (200, b"")
        body = post(f"{url}{path}/json", **request_).json()
        assert (body["status"], body["result"]) == (200, "")
        assert body["msg"].endswith(".")

    def test_ping(self, url: str) -> None:
        reply = requests.get(f"{url}/ping", timeout=30)
        assert (reply.status_code, reply.text) == (200, "pong")


@pytest.mark.live
class TestDdddocrFastapi:
    """ddddocr-fastapi: forms of both kinds."""

    @pytest.mark.parametrize(
        "request_",
        [
            {"files": {"file": ("captcha.png", IMAGE, "image/png")}, "data": FASTAPI_FORM},
            {"files": {"file": IMAGE}},
            {"data": {"image": BASE64, **FASTAPI_FORM}},
            {"data": {"image": f"data:image/png;base64,{BASE64}"}},
            {"files": {"image": (None, BASE64), "probability": (None, "false")}},
            {"data": f"image={BASE64}",
             "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
        ],
        ids=["file", "file alone", "urlencoded", "data URI", "text in multipart", "unescaped"],
    )  # fmt: skip
    def test_an_answer(self, url: str, request_: dict[str, Any]) -> None:
        reply = post(f"{url}/ocr", **request_)
        assert (reply.status_code, reply.json()) == (
            200,
            {"code": 200, "message": "Success", "data": "w120"},
        )

    def test_probability(self, url: str) -> None:
        body = post(f"{url}/ocr", files={"file": IMAGE}, data={"probability": "true"}).json()
        assert (body["code"], body["data"]["text"]) == (200, "w120")
        assert 0.0 < body["data"]["confidence"] < 1.0

    @pytest.mark.parametrize(
        ("request_", "code"),
        [
            ({"files": {"file": NOTE}}, 400),
            ({"files": {"file": b""}}, 400),
            ({"data": {"image": "$"}}, 400),
            ({"files": {"file": IMAGE}, "data": {"probability": "maybe"}}, 400),
        ],
    )
    def test_errors_are_a_code_in_a_200(
        self, url: str, request_: dict[str, Any], code: int
    ) -> None:
        reply = post(f"{url}/ocr", **request_)
        body = reply.json()
        assert (reply.status_code, body["code"], body["data"]) == (200, code, None)
        assert body["message"].endswith(".")


@pytest.mark.live
@pytest.mark.parametrize(
    "path", ["/det", "/det/file", "/detection", "/slide_match", "/slide_comparison",
             "/slide/match/file/json"]
)  # fmt: skip
def test_a_route_without_text_recognition_is_a_404_with_the_error_object(
    url: str, path: str
) -> None:
    reply = post(url + path, files={"image": IMAGE})
    assert (reply.status_code, reply.json()["error_type"]) == (404, "not_found")
    assert "reads text" in reply.json()["error"]


FILE: Any = {"image": object()}
OTHER_FILE: Any = {"file": object()}


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (Body(image=b"x"), "NoneType"),
        (Body(fields={"image_base64": "x"}, is_json=True), "NoneType"),
        (Body(fields={"image_base64": "x", "image": "x"}, is_json=True), "NoneType"),
        (Body(files=FILE), "NoneType"),
        (Body(files={**FILE, **OTHER_FILE}), "NoneType"),
        (Body(fields={}, is_json=True), "NoneType"),
        (Body(), "NoneType"),
        (Body(fields={"image": "x"}, is_json=True), "DdddocrApi"),
        (Body(files=OTHER_FILE), "DdddocrFastapi"),
        (Body(fields={"image": "x"}), "DdddocrFastapi"),
    ],
    ids=["raw", "our JSON", "both in JSON", "our file", "both files", "empty JSON", "nothing",
         "ddddocr's JSON", "their file", "their text"],
)  # fmt: skip
def test_the_dialect_of_a_request(body: Body, name: str) -> None:
    assert type(dialect_of(body)).__name__ == name


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (None, {}),
        (6, {"charset_range": 6}),
        ("0", {"charset_range": "0"}),
        ("012", {"charset": "012"}),
        ("", {}),
        (" ", {}),
        (["a", "b"], {"charset": "ab"}),
        (["0"], {"charset": "0"}),
        (["a", 1], {"charset_range": ["a", 1]}),
    ],
)
def test_charset_ranges_of_ddddocr_are_options(value: object, options: dict[str, object]) -> None:
    assert option_fields({"image": "x", "charsets": value}, "charsets") == {
        "image": "x",
        **options,
    }


def test_a_blank_charset_range_does_not_change_charset() -> None:
    assert option_fields({"charset": "01", "charsets": ""}, "charsets") == {"charset": "01"}


def test_a_blank_charset_does_not_change_charset_range() -> None:
    assert option_fields({"charset": " ", "charsets": "0"}, "charsets")["charset_range"] == "0"


def test_null_is_no_probability(client: FlaskClient) -> None:
    assert client.post("/ocr", json={"image": BASE64, "probability": None}).json["result"] == "w120"


class SlowUpload(io.BytesIO):
    """A body that takes three seconds of a clock to arrive."""

    def __init__(self, body: bytes, clock: list[float]) -> None:
        super().__init__(body)
        self._clock = clock

    def readinto(self, buffer: Any) -> int:
        """Read, and let the time pass."""
        self._clock[0] = 3.0
        return super().readinto(buffer)


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [
        ("/ocr", json.dumps({"image": BASE64}).encode(), "application/json"),
        ("/ocr/b64/json", BASE64.encode(), "text/plain"),
        ("/ocr", IMAGE, "image/png"),
    ],
)
def test_the_time_of_an_upload_counts(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, path: str, body: bytes, content_type: str
) -> None:
    service = client.application.extensions["captcha_service"]
    clock, deadlines = [0.0], []

    def recognize(data: bytes, options: object, deadline: float, *_: object) -> Answer:
        deadlines.append(deadline)
        return Answer("x", 1.0, success=True, raw_response="x")

    monkeypatch.setattr(service, "monotonic", lambda: clock[0])
    monkeypatch.setattr(service, "recognize", recognize)
    upload = SlowUpload(body, clock)
    client.post(path, input_stream=upload, content_length=len(body), content_type=content_type)
    assert (clock, deadlines) == ([3.0], [load_settings({}).ocr_timeout_s])


@pytest.mark.parametrize("value", ["abc", "0", 0, ["a"]])
def test_a_range_and_our_own_option_exclude_each_other(client: FlaskClient, value: object) -> None:
    fields = {"image": BASE64, "charset": "01", "charset_range": value}
    reply = client.post("/ocr", json=fields)
    assert reply.status_code == 400
    assert "exclude each other" in reply.json["detail"]


@pytest.mark.parametrize("text", ["a", "aab0", "验证码", "1111"])
@pytest.mark.parametrize("confidence", [1.0, 0.5, 0.001, 0.0])
def test_probabilities_join_to_the_text_and_multiply_to_the_confidence(
    text: str, confidence: float
) -> None:
    found: Any = probabilities(Answer(text, confidence, success=True, raw_response=text))
    product = 1.0
    read = ""
    for row in found["probability"]:
        assert len(row) == len(found["charsets"])
        read += found["charsets"][row.index(max(row))]
        product *= max(row)
    assert read == text
    assert product == pytest.approx(confidence, abs=1e-6)


def test_no_answer_has_no_probabilities() -> None:
    found: Any = probabilities(Answer("", 0.0, success=False, raw_response="?"))
    assert (found["text"], found["probability"]) == ("", [])


def test_an_output_without_an_answer_is_reported_in_each_dialect(
    client: FlaskClient, backend: FakeBackend
) -> None:
    backend.respond = lambda task: "5/0"
    api = client.post("/ocr", json={"image": BASE64}).json
    assert (api["result"], api["warnings"]) == ("", ["The model gave no usable answer."])
    fastapi = client.post("/ocr", data={"image": BASE64}).json
    assert (fastapi["code"], fastapi["data"]) == (500, "")
    server = client.post("/ocr/b64/json", data=BASE64).json
    assert (server["result"], server["msg"]) == ("", "The model gave no usable answer.")
    assert client.post("/ocr/b64", data=BASE64).data == b""


@pytest.mark.parametrize(
    "fields",
    [{"charset_range": ["1", "2", "0"]}, {"charset_range": "012"}, {"charset": "012"}],
    ids=["a list", "characters", "our option"],
)
def test_a_range_is_an_option_of_one_request(
    client: FlaskClient, backend: FakeBackend, fields: dict[str, object]
) -> None:
    client.post("/ocr?charset=012", data=IMAGE, content_type="image/png")
    [[asked]] = backend.batches
    fields = {**API_REQUEST, "image": base64.b64encode(image_bytes(121)).decode(), **fields}
    assert client.post("/ocr", json=fields).status_code == 200
    text = base64.b64encode(image_bytes(122)).decode()
    assert client.post("/ocr", data={"image": text, "charsets": "012"}).json["code"] == 200
    assert [task.constraints for [task] in backend.batches] == [asked.constraints] * 3
    assert asked.constraints != UNRESTRICTED


def test_a_server_error_has_the_shape_of_the_dialect(
    client: FlaskClient, backend: FakeBackend
) -> None:
    def fail(task: object) -> str:
        raise ValueError("non-finite logits")

    backend.respond = fail
    api = client.post("/ocr", json={"image": BASE64})
    assert (api.status_code, list(api.json)) == (500, ["detail"])
    fastapi = client.post("/ocr", data={"image": BASE64})
    assert (fastapi.status_code, fastapi.json["code"]) == (200, 500)
    assert client.post("/ocr/b64/json", data=BASE64).json["result"] == ""


def test_a_loading_model_has_a_retry_after(backend: FakeBackend) -> None:
    backend.hold()
    app = create_app(load_settings({}), backend)
    reply = app.test_client().post("/ocr", json={"image": BASE64})
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "5")
    assert list(reply.json) == ["detail"]
    backend.release()
    app.extensions["captcha_service"].begin_drain()
