"""The clients for users, against a live service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qwen_captcha.collecting.labels import LabelFolder
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    MAX_WAIT_S,
    PROJECT,
    gunicorn_command,
    running,
)
from tests.support.stub_service import stub_service

EXAMPLES = PROJECT / "examples"
sys.path.insert(0, str(EXAMPLES / "python"))

from captcha_client import CaptchaClient, CaptchaError  # noqa: E402

pytestmark = pytest.mark.live

IMAGE = image_bytes(120)
# Building Go's standard library for the first time.
MAX_GO_S = 300.0


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("collected")


@pytest.fixture(scope="module")
def url(collected: Path) -> Iterator[str]:
    command = gunicorn_command("tests.support.fake_backend:create_quick_app()")
    with running(command, COLLECT_DIR=str(collected)) as server:
        server.wait_until_ready()
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def captcha(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "captcha.png"
    path.write_bytes(IMAGE)
    return path


@pytest.mark.skipif(not shutil.which("go"), reason="Go is not installed")
def test_the_go_client(url: str, captcha: Path) -> None:
    run = subprocess.run(
        ["go", "test", "-count=1", "-v", "./..."],
        cwd=EXAMPLES / "go",
        env={**os.environ, "CAPTCHA_URL": url, "CAPTCHA_IMAGE": str(captcha),
             "GOFLAGS": "-mod=mod", "GOPROXY": "off", "CGO_ENABLED": "0"},
        capture_output=True, text=True, timeout=MAX_GO_S, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("--- PASS") == 9
    assert "--- SKIP" not in run.stdout


@pytest.mark.skipif(not shutil.which("gofmt"), reason="Go is not installed")
def test_the_go_client_is_formatted() -> None:
    command = ["gofmt", "-l", str(EXAMPLES / "go")]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=MAX_WAIT_S)
    assert run.stdout == ""


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_curl_lines(url: str, captcha: Path) -> None:
    command = ["sh", str(EXAMPLES / "curl.sh"), str(captcha), url]
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=MAX_WAIT_S,
        env={**os.environ, "FEEDBACK": "1"},
    )  # fmt: skip
    health, *answers, batch, feedback = (json.loads(line) for line in run.stdout.splitlines())
    assert health["status"] == "ok"
    assert [answer["text"] for answer in answers] == ["w120"] * 3 + ["W120"] * 2
    assert [answer["text"] for answer in batch["results"]] == ["w120"] * 2
    assert feedback == {"success": True}


def test_the_curl_lines_end_at_the_first_error(tmp_path: Path, url: str) -> None:
    note = tmp_path / "note.png"
    note.write_text("this is a text")
    command = ["sh", str(EXAMPLES / "curl.sh"), str(note), url]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MAX_WAIT_S)
    assert run.returncode != 0
    assert "unsupported_image_type" in run.stdout


class TestPython:
    def test_one_image(self, url: str) -> None:
        answer = CaptchaClient(url + "/").solve(IMAGE)
        assert (answer.text, answer.success, answer.warnings) == ("w120", True, ())
        assert 0 < answer.confidence < 1

    def test_options(self, url: str) -> None:
        client = CaptchaClient(url, {"case": "upper"})
        assert client.solve(IMAGE).text == "W120"
        assert [answer.text for answer in client.solve_batch([IMAGE, IMAGE])] == ["W120"] * 2

    def test_one_bad_image_of_a_batch_fails_alone(self, url: str) -> None:
        good, bad = CaptchaClient(url).solve_batch([IMAGE, b"this is a text"])
        assert (good.text, bad.text, bad.success) == ("w120", "", False)
        assert bad.error_type == "unsupported_image_type"

    def test_an_error_reply(self, url: str) -> None:
        with pytest.raises(CaptchaError, match="image") as refusal:
            CaptchaClient(url).solve(b"this is a text")
        assert (refusal.value.status, refusal.value.error_type) == (415, "unsupported_image_type")

    @pytest.mark.parametrize(
        ("status", "body", "error_type", "retry_after_s"),
        [
            (200, b'{"success":false,"text":"","confidence":0,"raw_response":"",'
                  b'"error":"None.","error_type":"no_answer"}', "no_answer", None),
            (503, b'{"error":"Full.","error_type":"queue_full"}', "queue_full", 3),
            (502, b"<html>abcd</html>", "not_a_service", 3),
            (200, b'"abcd"', "not_a_service", None),
            (200, b"<html>abcd</html>", "not_a_service", None),
        ],
    )  # fmt: skip
    def test_a_response_without_an_answer_is_never_a_text(
        self, status: int, body: bytes, error_type: str, retry_after_s: int | None
    ) -> None:
        with (
            stub_service(lambda call: (status, body, {"Retry-After": "3"})) as url,
            pytest.raises(CaptchaError) as refusal,
        ):
            CaptchaClient(url).solve(IMAGE)
        assert (refusal.value.error_type, refusal.value.retry_after_s) == (
            error_type,
            retry_after_s,
        )

    def test_feedback(self, url: str, collected: Path) -> None:
        client = CaptchaClient(url)
        image = image_bytes(133)
        client.feedback(client.solve(image).request_id, correct=True)
        answers = client.solve_batch([image_bytes(134), image_bytes(135)])
        client.feedback(answers[1].request_id, correct=False, text="abcd")
        labels = {label.text for label in LabelFolder(collected).read().labels.values()}
        assert {"w133", "abcd"} <= labels
        with pytest.raises(CaptchaError) as refusal:
            client.feedback("unknown", correct=True)
        assert (refusal.value.status, refusal.value.error_type) == (404, "unknown_request")

    def test_as_a_script(self, url: str, captcha: Path) -> None:
        script = EXAMPLES / "python" / "captcha_client.py"
        command = [sys.executable, str(script), url, str(captcha)]
        run = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=MAX_WAIT_S
        )
        assert run.stdout == f"0.779  w120  {captcha}\n"
