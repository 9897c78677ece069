from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from flask import Flask
from flask.cli import locate_app
from gunicorn.util import import_app

import qwen_captcha_service
from qwen_captcha import app as app_module
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.server import run as server_module
from qwen_captcha.settings import Settings
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    ENTRY_SCRIPT,
    running,
    send_and_close,
)

# What runs on Windows, with a backend without a model.
THREADED = (
    sys.executable,
    "-c",
    # A shell starts what runs in its background with this signal ignored.
    "import signal\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from tests.support.fake_backend import create_quick_app\n"
    "from qwen_captcha.logs import configure_logging\n"
    "from qwen_captcha.server.run import serve_threaded\n"
    "from qwen_captcha.settings import settings_from_environment\n"
    "settings = settings_from_environment()\n"
    "configure_logging(settings.log_level, settings.log_format)\n"
    "serve_threaded(create_quick_app(), settings)\n",
)
IMAGE = image_bytes(120)
REQUEST = b"POST /ocr HTTP/1.1\r\nHost: captcha\r\nContent-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE


@pytest.mark.live
def test_the_threaded_server_serves_until_it_is_interrupted() -> None:
    with running(THREADED) as server:
        server.wait_until_ready()
        [reply] = send_and_close(server.port, [REQUEST])
        assert (reply.status, reply.json["text"]) == (200, "w120")
        [rejection] = send_and_close(server.port, [b"POST /ocr HTTP/1.1 and more\r\n\r\n"])
        assert (rejection.status, rejection.json["error_type"]) == (400, "bad_request")
        server.process.send_signal(signal.SIGINT)
        assert server.wait_for_end() == 0


def test_errors_of_the_threaded_server_are_the_error_object() -> None:
    page = server_module.JsonRequestHandler.error_message_format % {"code": 400}
    assert json.loads(page) == {
        "success": False,
        "text": "",
        "confidence": 0.0,
        "error": "The request is not valid HTTP.",
        "error_type": "bad_request",
    }


def test_this_process_becomes_gunicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(os, "execv", lambda path, command: commands.append((path, command)))
    server_module.become_gunicorn()
    [(path, command)] = commands
    assert path == command[0] == sys.executable
    assert command[1:4] == ["-m", "gunicorn", "--config"]
    assert Path(command[4]).is_file()


@pytest.mark.live
def test_a_checkpoint_that_is_not_there_ends_the_start_with_one_line(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with running(ENTRY_SCRIPT, QWEN_MODEL=missing, HF_HUB_OFFLINE="1") as server:
        assert server.wait_for_end() == 3
    [line] = server.lines
    assert missing in line


@pytest.mark.parametrize(("system", "used"), [("Windows", "threaded"), ("Linux", "gunicorn")])
def test_the_system_decides_the_server(
    monkeypatch: pytest.MonkeyPatch, system: str, used: str
) -> None:
    servers = []
    monkeypatch.setattr(qwen_captcha_service, "create_backend", lambda settings: None)
    monkeypatch.setattr(qwen_captcha_service, "create_app", lambda: "app")
    monkeypatch.setattr(
        qwen_captcha_service, "serve_threaded", lambda app, settings: servers.append("threaded")
    )
    monkeypatch.setattr(qwen_captcha_service, "become_gunicorn", lambda: servers.append("gunicorn"))
    monkeypatch.setattr(qwen_captcha_service, "SYSTEM", system)
    qwen_captcha_service.main()
    assert servers == [used]


def test_a_worker_without_a_model_stops_gunicorn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(settings: Settings) -> None:
        raise ModelLoadError("no such checkpoint")

    monkeypatch.setattr(app_module, "create_backend", refuse)
    monkeypatch.setattr(qwen_captcha_service, "configure_logging", lambda level, log_format: None)
    with pytest.raises(SystemExit) as end:
        qwen_captcha_service.create_app()
    assert end.value.code == 3
    assert capsys.readouterr().err == "no such checkpoint\n"


def test_other_servers_find_the_application_by_its_usual_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []

    def create_app() -> Flask:
        made.append(Flask("made"))
        return made[-1]

    monkeypatch.setattr(qwen_captcha_service, "create_app", create_app)
    monkeypatch.setitem(vars(qwen_captcha_service), "app", None)
    monkeypatch.delitem(vars(qwen_captcha_service), "app")
    assert import_app("qwen_captcha_service:app") is made[0]
    assert locate_app("qwen_captcha_service", None) is made[0]
    assert len(made) == 1
    with pytest.raises(AttributeError):
        _ = qwen_captcha_service.application_of_another_name
