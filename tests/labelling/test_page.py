"""The label page over HTTP: access and replies."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from qwen_captcha.collecting import files
from qwen_captcha.labelling.page import create_label_app
from qwen_captcha.labelling.session import LabelSession
from qwen_captcha.settings import load_settings
from tests.api.test_pages import Anchors
from tests.support.fake_backend import image_bytes

TOKEN = "the-token"
HOST = "127.0.0.1:8000"
FIT = "qwen-captcha fit captchas --out MODEL"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for width in (101, 102):
        (tmp_path / f"{width}.png").write_bytes(image_bytes(width))
    (tmp_path / "page.png").write_text("<script>alert(1)</script>")
    return tmp_path


@pytest.fixture
def client(folder: Path) -> FlaskClient:
    session = LabelSession(folder, load_settings({}))
    return create_label_app(session, TOKEN, {HOST, "localhost:8000"}, FIT).test_client()


def get(client: FlaskClient, path: str, host: str = HOST, **headers: str) -> TestResponse:
    return client.get(path, base_url=f"http://{host}", headers=headers, buffered=True)


def send(client: FlaskClient, fields: object, path: str = f"/{TOKEN}/labels") -> TestResponse:
    return client.post(path, base_url=f"http://{HOST}", json=fields)


@pytest.mark.parametrize("path", ["", "images/101.png", "state", "guesses", "assets/label.js"])
def test_without_the_token_every_path_is_rejected(client: FlaskClient, path: str) -> None:
    assert get(client, f"/{TOKEN}/{path}").status_code == 200
    for wrong in ("/", f"/{path}", f"/other/{path}", f"/{TOKEN}x/{path}", f"/ü/{path}"):
        reply = get(client, wrong)
        assert (reply.status_code, list(reply.json)) == (403, ["error"])


@pytest.mark.parametrize("host", ["evil.example:8000", "127.0.0.1", "127.0.0.1:8001", "localhost"])
def test_another_host_name_is_rejected(client: FlaskClient, host: str) -> None:
    assert get(client, f"/{TOKEN}/state", "localhost:8000").status_code == 200
    assert get(client, f"/{TOKEN}/state", host).status_code == 403


def test_requests_of_other_origins_are_rejected(client: FlaskClient, folder: Path) -> None:
    fields = {"file": "101.png", "label": "a"}
    address = f"/{TOKEN}/labels"
    for origin in ("https://evil.example", "null", f"https://{HOST}", "http://127.0.0.1:8001"):
        reply = client.post(
            address, base_url=f"http://{HOST}", json=fields, headers={"Origin": origin}
        )
        assert reply.status_code == 403
    assert not (folder / "labels.tsv").exists()
    own = {"Origin": f"http://{HOST}"}
    reply = client.post(address, base_url=f"http://{HOST}", json=fields, headers=own)
    assert reply.status_code == 200


def test_a_label_is_on_disk_when_its_reply_comes(client: FlaskClient, folder: Path) -> None:
    reply = send(client, {"file": "101.png", "label": " a3b9 "})
    assert (reply.status_code, reply.json) == (
        200,
        {"file": "101.png", "label": "a3b9", "mark": None},
    )
    assert (folder / "labels.tsv").read_text() == "101.png\ta3b9\n"
    reply = send(client, {"file": "102.png", "label": None, "mark": "skipped"})
    assert reply.status_code == 400
    assert send(client, {"file": "102.png", "mark": "skipped"}).status_code == 200
    state = get(client, f"/{TOKEN}/state").json
    assert [(image["label"], image["mark"]) for image in state["images"]] == [
        ("a3b9", None), (None, "skipped"), (None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ([], 400, "JSON object"),
        ({}, 400, "file and label"),
        ({"file": 1, "label": "a"}, 400, "file and label"),
        ({"file": "101.png", "label": 1}, 400, "file and label"),
        ({"file": "101.png", "label": " "}, 400, "empty"),
        ({"file": "101.png", "label": "a\tb"}, 400, "control"),
        ({"file": "101.png", "label": "x" * 65}, 400, "65 characters"),
        ({"file": "101.png", "label": "x" * 20_000}, 413, "limit"),
        ({"file": "101.png", "mark": "wrong"}, 400, "skipped or unreadable"),
        ({"file": "101.png", "mark": []}, 400, "skipped or unreadable"),
        ({"file": "103.png", "label": "a"}, 404, "no such image"),
        ({"file": "labels.tsv", "label": "a"}, 404, "no such image"),
    ],
)
def test_an_unwritable_folder_is_reported(
    client: FlaskClient, folder: Path, fields: object, status: int, reason: str
) -> None:
    reply = send(client, fields)
    assert reply.status_code == status
    assert reason in reply.json["error"]
    assert not (folder / "labels.tsv").exists()


def test_a_body_that_is_no_json_is_rejected(client: FlaskClient) -> None:
    address = f"http://{HOST}/{TOKEN}/labels"
    assert client.post(address, data="file=101.png&label=a").status_code == 415
    broken = client.post(address, data="{", content_type="application/json")
    assert (broken.status_code, list(broken.json)) == (400, ["error"])


def test_a_full_disk_is_reported(
    client: FlaskClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", no_space)
    reply = send(client, {"file": "101.png", "label": "a"})
    assert reply.status_code == 500
    assert reply.json["error"] == "The label cannot be written: No space left on device."
    assert str(folder) not in reply.json["error"]


@pytest.mark.parametrize(
    "name",
    ["missing.png", "page.png", "..%2f101.png", "..%2f..%2fetc%2fpasswd", "labels.tsv", "%00"],
)
def test_only_images_of_the_folder_are_served(client: FlaskClient, name: str) -> None:
    good = get(client, f"/{TOKEN}/images/101.png")
    assert (good.status_code, good.mimetype, good.data) == (200, "image/png", image_bytes(101))
    assert get(client, f"/{TOKEN}/images/{name}").status_code == 404


@pytest.mark.parametrize("name", ["label.html", "../label.html", "page.js", "..%2f..%2fpage.py"])
def test_only_assets_of_the_page_are_served(client: FlaskClient, name: str) -> None:
    assert get(client, f"/{TOKEN}/assets/{name}").status_code == 404


def test_the_page_loads_only_what_is_there_and_runs_nothing_else(client: FlaskClient) -> None:
    reply = get(client, f"/{TOKEN}/")
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["Cache-Control"] == "no-store"
    anchors = Anchors(reply.text)
    assert anchors.inline == []
    assert len(anchors.addresses) == 4
    for address in anchors.addresses:
        assert get(client, f"/{TOKEN}/{address}").status_code == 200
    assert FIT in reply.text


def test_guesses_can_be_requested_from_an_offset(client: FlaskClient) -> None:
    for query in ("", "?after=5", "?after=-1", "?after=x"):
        reply = get(client, f"/{TOKEN}/guesses{query}")
        assert reply.json == {"guesses": [], "finished": False, "failure": ""}
