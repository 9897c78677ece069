"""The pages' replies without a browser: headers, methods, and that the description is whole."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from flask.testing import FlaskClient

from qwen_captcha.api.openapi.document import operations_of
from qwen_captcha.api.openapi.schemas import SCHEMAS
from qwen_captcha.app import create_app
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import FakeBackend


class Anchors(HTMLParser):
    """The ids of a page, the targets within it, and what it loads or links."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: set[str] = set()
        self.addresses: set[str] = set()
        self.inline: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            value = value or ""
            if name == "id":
                self.ids.append(value)
            elif name in ("href", "src"):
                within = value.startswith("#")
                (self.targets if within else self.addresses).add(value.removeprefix("./"))
            elif name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
        if tag == "style" or (tag == "script" and "src" not in dict(attrs)):
            self.inline.append(tag)


def html_of(client: FlaskClient, path: str) -> str:
    reply = client.get(path)
    assert (reply.status_code, reply.content_type) == (200, "text/html; charset=utf-8")
    return reply.get_data(as_text=True)


@pytest.mark.parametrize("path", ["/", "/docs", "/assets/page.js", "/assets/base.css"])
def test_the_content_security_policy_allows_only_own_files(client: FlaskClient, path: str) -> None:
    headers = client.get(path, buffered=True).headers
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_all_that_a_page_loads_or_links_is_there(client: FlaskClient, path: str) -> None:
    anchors = Anchors(html_of(client, path))
    assert anchors.inline == []
    assert len(anchors.ids) == len(set(anchors.ids))
    assert anchors.targets <= {f"#{name}" for name in anchors.ids}
    assert len(anchors.addresses) >= 4
    assert {
        client.get(f"/{address}", buffered=True).status_code for address in anchors.addresses
    } == {200}


def test_each_script_that_a_script_imports_is_there(client: FlaskClient) -> None:
    script = client.get("/assets/page.js", buffered=True).get_data(as_text=True)
    imported = re.findall(r'from "\./(\w+\.js)"', script)
    assert len(imported) == script.count("\nimport ")
    for name in imported:
        reply = client.get(f"/assets/{name}", buffered=True)
        assert reply.status_code == 200
        assert reply.mimetype == "text/javascript"


def test_the_description_for_people_has_each_route_and_object(client: FlaskClient) -> None:
    html = html_of(client, "/docs")
    ids = set(Anchors(html).ids)
    assert {operation.name for operation in operations_of(load_settings({}))} <= ids
    assert set(SCHEMAS) <= ids
    assert "<code>unsupported_image_type</code>" in html
    reading = html[html.index('id="readImage"') : html.index('id="readImages"')]
    forms = reading[: reading.index("<code>application/json</code>")]
    assert "<code>image_base64</code>" in forms
    assert forms.count("<code>min_confidence</code>") == 1
    assert "Undefined" not in html
    assert "None" not in re.sub("<[^>]*>", "", html)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_need_no_key(backend: FakeBackend, path: str) -> None:
    settings = load_settings({"API_KEYS": "a-key-of-this-test"})
    client = create_app(settings, backend).test_client()
    addresses = Anchors(html_of(client, path)).addresses
    assert {client.get(f"/{address}", buffered=True).status_code for address in addresses} == {200}
    assert client.post("/ocr", data=b"x").status_code == 401
