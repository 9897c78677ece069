"""The OpenAPI document agrees with the service: routes, options, replies and errors."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from gunicorn.http.errors import ParseException
from jsonschema import Draft202012Validator, ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator

from qwen_captcha.api.openapi.document import openapi_document, operations_of
from qwen_captcha.api.openapi.operations import OPERATIONS
from qwen_captcha.api.openapi.option_fields import OPTION_FIELDS, OptionField
from qwen_captcha.api.openapi.route_errors import SECURITY_ERRORS, SERVER_ERRORS
from qwen_captcha.api.openapi.schemas import SCHEMAS
from qwen_captcha.app import create_app
from qwen_captcha.errors import (
    CaptchaServiceError,
    InvalidOption,
    MethodNotAllowed,
    NotFound,
    OriginNotAllowed,
    every_error_type,
)
from qwen_captcha.recognition.options import parse_options
from qwen_captcha.recognition.reading import Capabilities, GenerationRequest
from qwen_captcha.server.error_replies import ERRORS, error_of
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import FakeBackend, image_bytes

# Routes that reply only that they are not offered, and the files that the pages load.
NOT_DESCRIBED = ("dialects.other_tasks", "pages.static")
# Whether a value is taken depends on the other one of these.
TOGETHER = ("colors", "custom_color_ranges")
VALUES = (
    "", "  ", "auto", "AUTO", "Digits", " math ", "poem", "digits,text", "lower", "keep", "low",
    "0", " 6 ", "7", "9", "06", "abc", "x" * 2000, "x" * 2001, "x" * 20_000, "x" * 20_001,
    "true", "0.5", "1.5", "-1", "4-6", "4",
    "red", "RED, blue ", "red,,", '["red"]', "[", '{"a": [[0, 0, 0], [1, 1, 1]]}', "null",
    0, 6, 7, -1, 0.5, 1.5, True, False, None, [], ["auto"], {}, {"a": 1},
)  # fmt: skip


def strict(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document with objects that have no field beyond those that are named."""
    closed = copy.deepcopy(dict(document))
    for schema in closed["components"]["schemas"].values():
        schema["additionalProperties"] = False
    return closed


DOCUMENT: dict[str, Any] = json.loads(json.dumps(openapi_document(load_settings({}))))


def check(body: object, path: str, method: str, status: int) -> None:
    """Check a reply against what the document of a plain service says of it."""
    check_against(DOCUMENT, body, path, method, status)


def check_against(
    described: Mapping[str, Any], body: object, path: str, method: str, status: int
) -> None:
    """Check a reply against what a document says of it."""
    document = strict(described)
    response = document["paths"][path][method]["responses"][str(status)]
    schema = response["content"]["application/json"]["schema"]
    components = {"components": document["components"]}
    Draft202012Validator({**schema, **components}).validate(body)


def test_it_is_openapi_3_1(client: FlaskClient) -> None:
    document = client.get("/openapi.json").get_json()
    OpenAPIV31SpecValidator(document).validate()
    assert document == DOCUMENT


@pytest.mark.parametrize("collecting", [False, True])
def test_each_rule_of_the_application_is_described_and_nothing_else(
    backend: FakeBackend, tmp_path: Path, collecting: bool
) -> None:
    settings = load_settings({"COLLECT_DIR": str(tmp_path) if collecting else ""})
    app = create_app(settings, backend)
    rules = {
        (method.lower(), re.sub(r"<(?:[^:>]+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.endpoint not in NOT_DESCRIBED
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = [(operation.method, operation.path) for operation in operations_of(settings)]
    assert rules == set(described)
    assert len(described) == len(rules)
    assert (("post", "/feedback") in rules) is collecting
    paths = openapi_document(settings)["paths"]
    assert isinstance(paths, dict)
    assert set(paths) == {path for _, path in rules}


class Recorder(dict[str, object]):
    """Fields of a request that record which of them were read."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def get(self, name: str, default: object = None) -> object:
        self.names.append(name)
        return super().get(name, default)


def test_each_option_of_the_parser_is_described() -> None:
    recorder = Recorder()
    parse_options(recorder)
    assert {option.name for option in OPTION_FIELDS} == set(recorder.names)


def accepted(name: str, value: object) -> bool:
    try:
        parse_options({name: value})
    except InvalidOption:
        return False
    return True


@pytest.mark.parametrize(
    "option",
    [option for option in OPTION_FIELDS if option.name not in TOGETHER],
    ids=lambda option: option.name,
)
def test_the_schema_of_an_option_takes_what_the_parser_takes(option: OptionField) -> None:
    validator = Draft202012Validator(option.json)
    said = {repr(value): validator.is_valid(value) for value in VALUES}
    assert said == {repr(value): accepted(option.name, value) for value in VALUES}
    texts = [value for value in VALUES if isinstance(value, str)]
    validator = Draft202012Validator(option.text)
    said = {value: validator.is_valid(value) for value in texts}
    assert said == {value: accepted(option.name, value) for value in texts}


@pytest.mark.parametrize("name", TOGETHER)
def test_the_schema_of_options_that_depend_on_each_other_takes_all_that_is_taken(name: str) -> None:
    [option] = [option for option in OPTION_FIELDS if option.name == name]
    taken = [value for value in VALUES if accepted(name, value)]
    assert [value for value in taken if not Draft202012Validator(option.json).is_valid(value)] == []
    numbers = [value for value in VALUES if isinstance(value, int)]
    assert not any(map(Draft202012Validator(option.json).is_valid, numbers))


def test_each_error_is_in_some_reply_or_named_in_the_introduction() -> None:
    in_replies = {error for operation in OPERATIONS for error in operation.errors}
    in_replies |= {*SERVER_ERRORS.values(), *SECURITY_ERRORS.values()}
    abstract = {error for error in every_error_type() if error.__subclasses__()}
    missing = set(every_error_type()) - in_replies - abstract
    assert missing == {MethodNotAllowed, OriginNotAllowed}
    for error in (NotFound, MethodNotAllowed, OriginNotAllowed):
        assert f"{error.status} `{error.error_type}`" in DOCUMENT["info"]["description"]


def test_errors_of_the_server_are_described() -> None:
    refused = {(status, error_type) for _, status, error_type, _ in ERRORS}
    for error in (ParseException("not HTTP"), RuntimeError("a fault")):
        status, error_type, _ = error_of(error)
        refused.add((status, error_type))
    assert {(status, error.error_type) for status, error in SERVER_ERRORS.items()} == refused


def as_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def replies(client: FlaskClient, backend: FakeBackend) -> Iterator[tuple[str, str, Any]]:
    """Yield path, method and reply of requests that together show every field."""
    image = image_bytes(120)
    yield "/ocr", "post", client.post("/ocr", data=image)
    for fields in ({}, {"probability": True}, {"colors": ["red"]}):
        yield "/ocr", "post", client.post("/ocr", json={"image": as_base64(image), **fields})
    for fields in ({}, {"probability": "true"}):
        yield "/ocr", "post", client.post("/ocr", data={"image": as_base64(image), **fields})
    file = {"image": (io.BytesIO(image), "x.png")}
    yield "/ocr/file/{form}", "post", client.post("/ocr/file/json", data=file)
    yield "/ocr/b64/{form}", "post", client.post("/ocr/b64/json", data="$")
    yield "/ocr", "post", client.post("/ocr?charset=abc&prompt=x&details=true", data=image)
    backend.capabilities = Capabilities(follows_prompts=False)
    yield "/ocr", "post", client.post("/ocr?prompt=y", data=image_bytes(130))
    files = {"images_base64": ["$", "", 5]}
    yield "/batch-ocr", "post", client.post("/batch-ocr", json=files)
    backend.respond = lambda task: "5/0"
    yield "/ocr", "post", client.post("/ocr", data=image_bytes(140))
    yield "/ocr", "post", client.post("/ocr", json={"image": "$"})
    yield "/ocr", "post", client.post("/ocr", data={"image": "$"})
    yield "/set_charset_range", "post", client.post("/set_charset_range")
    for path in ("/health", "/livez", "/readyz", "/openapi.json"):
        yield path, "get", client.get(path)
    yield "/ocr", "post", client.post("/ocr?kind=poem", data=image)
    yield "/ocr", "post", client.post("/ocr", data=b"text", content_type="image/png")
    yield "/batch-ocr", "post", client.post("/batch-ocr", data={})

    def fail(task: GenerationRequest) -> str:
        raise ValueError("broken")

    backend.respond = fail
    for width in range(5):
        yield "/ocr", "post", client.post("/ocr", data=image_bytes(300 + width))
    yield "/health", "get", client.get("/health")
    yield "/readyz", "get", client.get("/readyz")


def test_replies_have_the_fields_that_are_described_and_no_others(
    client: FlaskClient, backend: FakeBackend
) -> None:
    statuses = set()
    for path, method, reply in replies(client, backend):
        check(reply.get_json(), path, method, reply.status_code)
        statuses.add(reply.status_code)
    assert statuses == {200, 400, 410, 415, 500, 503}


def own_requests(image: bytes) -> dict[str, dict[str, Any]]:
    """Return requests to /ocr in this service's own form."""
    return {
        "body": {"data": image},
        "file": {"data": {"image": (io.BytesIO(image), "x.png")}},
        "json": {"json": {"image_base64": as_base64(image)}},
        "text": {"data": {"image_base64": as_base64(image)}},
    }


def requests_of_dialects(image: bytes) -> dict[str, dict[str, Any]]:
    """Return a request to /ocr for the reply of each dialect."""
    return {
        "DdddocrApiReply": {"json": {"image": as_base64(image)}},
        "DdddocrFastapiReply": {"data": {"file": (io.BytesIO(image), "x.png")}},
    }


@pytest.mark.parametrize("form", own_requests(b""))
@pytest.mark.parametrize(("said", "schema"), [("7", "Answer"), ("5/0", "NoAnswer")])
def test_a_native_request_gets_a_native_reply(
    client: FlaskClient, backend: FakeBackend, form: str, said: str, schema: str
) -> None:
    backend.respond = lambda task: said
    reply = client.post("/ocr", **own_requests(image_bytes(120))[form])
    assert schemas_of(reply.get_json()) == {schema}


@pytest.mark.parametrize("schema", requests_of_dialects(b""))
def test_a_request_of_a_dialect_gets_its_reply(client: FlaskClient, schema: str) -> None:
    reply = client.post("/ocr", **requests_of_dialects(image_bytes(120))[schema])
    assert schemas_of(reply.get_json()) == {schema}


def schemas_of(body: object) -> set[str]:
    """Return the names of the schemas of `POST /ocr` with status 200 that a reply fits."""
    document = strict(DOCUMENT)
    [content] = document["paths"]["/ocr"]["post"]["responses"]["200"]["content"].values()
    components = {"components": document["components"]}
    return {
        schema["$ref"].rpartition("/")[2]
        for schema in content["schema"]["anyOf"]
        if Draft202012Validator({**schema, **components}).is_valid(body)
    }


def test_each_reply_of_the_shared_route_names_its_dialect() -> None:
    [content] = DOCUMENT["paths"]["/ocr"]["post"]["responses"]["200"]["content"].values()
    names = [schema["$ref"].rpartition("/")[2] for schema in content["schema"]["anyOf"]]
    assert len(names) == 4
    for name in names:
        description = DOCUMENT["components"]["schemas"][name]["description"]
        assert description.startswith("The reply to ")


def test_a_field_that_is_not_described_does_not_pass() -> None:
    body = {"success": True, "text": "1", "confidence": 0.5, "raw_response": "1"}
    check(body, "/ocr", "post", 200)
    with pytest.raises(ValidationError, match="is not valid under any of the given schemas"):
        check({**body, "surprise": 1}, "/ocr", "post", 200)


def test_an_error_under_another_status_does_not_pass() -> None:
    body = {"success": False, "text": "", "confidence": 0.0, "error": "No.", "error_type": "x"}
    check({**body, "error_type": "missing_image"}, "/ocr", "post", 400)
    with pytest.raises(ValidationError, match="not valid under any of the given schemas"):
        check({**body, "error_type": "queue_full"}, "/ocr", "post", 400)


def test_no_description_names_the_base_error_class() -> None:
    slugs = {error.error_type for error in every_error_type()}
    assert CaptchaServiceError.error_type in slugs
    assert "Base of every error" not in json.dumps(DOCUMENT)
    assert set(SCHEMAS["Error"]["properties"]["error_type"]["enum"]) == slugs
