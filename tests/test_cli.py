from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import qwen_captcha_service
from qwen_captcha import doctor
from qwen_captcha import service as service_module
from qwen_captcha.backends.hardware import GIB
from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT
from qwen_captcha.cli import main, table_row
from qwen_captcha.doctor import State
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.answer import Answer
from qwen_captcha.settings import settings_from_environment
from tests.support.fake_backend import FakeBackend, image_bytes
from tests.support.fake_hub import running_hub
from tests.support.live_server import MAX_WAIT_S, PROJECT

IMAGE = image_bytes(120)


pytestmark = pytest.mark.usefixtures("unchanged_logging")


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a command sets."""
    for name in ("QWEN_MODEL", "HOST", "PORT", "HF_ENDPOINT", "HF_HUB_DISABLE_XET"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch, backend: FakeBackend) -> FakeBackend:
    monkeypatch.setattr(service_module, "create_backend", lambda settings: backend)
    return backend


@pytest.fixture
def captcha(tmp_path: Path) -> str:
    path = tmp_path / "captcha.png"
    path.write_bytes(IMAGE)
    return str(path)


def test_help_names_every_command_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(
        word in text for word in ("serve", "read", "label", "doctor", "download", "examples:")
    )


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/opt/venv/bin/qwen-captcha", "qwen-captcha"),
        ("/src/qwen_captcha/__main__.py", "python -m qwen_captcha"),
    ],
)
def test_help_and_fixes_name_the_command_as_it_was_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], called: str, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [called, "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {name} ")
    assert f"\n  {name} doctor\n" in text


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["read"], ["label"], ["label", ".", "--port", "x"], ["download"]]
)
def test_wrong_use_is_a_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_serve_is_the_entry_script_with_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Any] = []
    record = lambda: served.append(settings_from_environment())  # noqa: E731
    monkeypatch.setattr(qwen_captcha_service, "main", record)
    assert main(["serve", "--port", "8123", "--host", "127.0.0.1", "--model", "bundled"]) == 0
    [settings] = served
    assert (settings.port, settings.host, settings.qwen_model) == (8123, "127.0.0.1", "bundled")


def test_read_prints_a_table(
    fake_model: FakeBackend, captcha: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", captcha]) == 0
    assert capsys.readouterr().out == f"0.779  w120          {captcha}\n"


def test_read_prints_json_and_goes_on_after_a_bad_image(
    fake_model: FakeBackend, captcha: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = tmp_path / "note.png"
    note.write_text("this is a text")
    missing = str(tmp_path / "missing.png")
    assert main(["read", "--json", str(note), missing, captcha]) == 1
    bad, absent, good = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (bad["success"], bad["text"]) == (False, "")
    assert absent["error"] == "No such file or directory."
    assert (good["image"], good["text"], good["success"]) == (captcha, "w120", True)


def test_read_takes_stdin(
    fake_model: FakeBackend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(IMAGE)))
    assert main(["read", "-"]) == 0
    assert "w120" in capsys.readouterr().out


def test_a_folder_without_images_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(tmp_path)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "has no images" in line


@pytest.mark.live
def test_label_ends_cleanly_and_names_the_next_command(tmp_path: Path) -> None:
    folder = tmp_path / "my captchas"
    folder.mkdir()
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(IMAGE)
    command = [sys.executable, "-m", "qwen_captcha", "label", str(folder), "--model", "/nowhere"]
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell has it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    process.stdout.readline()
    body = json.dumps({"file": "2.png", "label": "a3b9"}).encode()
    request = urllib.request.Request(f"{address}labels", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=MAX_WAIT_S) as reply:
        assert reply.status == 200
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=MAX_WAIT_S)
    assert output == (
        f"\n1 of 2 images are labelled. Next: python -m qwen_captcha fit '{folder}' --out MODEL\n"
    )
    assert (process.returncode, errors) == (0, "")
    assert (folder / "labels.tsv").read_text() == "2.png\ta3b9\n"


def test_options_are_those_of_the_service(
    fake_model: FakeBackend, captcha: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", captcha, "--case", "upper", "--prompt", "Only digits."]) == 0
    assert "W120" in capsys.readouterr().out
    assert fake_model.batches[-1][0].prompt == "Only digits."
    assert main(["read", captcha, "--kind", "poem"]) == 2
    assert "poem" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_one_line(
    captcha: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["read", captcha, "--model", str(tmp_path / "nothing")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "nothing" in line


def test_chinese_is_two_columns_wide() -> None:
    rows = [table_row("x.png", Answer(text, 0.5, True, text)) for text in ("abcd", "验证")]
    assert rows == ["0.500  abcd          x.png", "0.500  验证          x.png"]


class TestDoctor:
    def results(self) -> dict[str, doctor.CheckResult]:
        return {result.subject: result for result in doctor.run_checks("qwen-captcha")}

    @pytest.mark.live
    def test_doctor_checks_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QWEN_MODEL", "bundled")
        monkeypatch.setenv("PORT", "0")
        found = self.results()
        assert set(found) == {
            "Python", "packages", "CPU", "CUDA", "memory", "model cache", "settings", "model",
            "port",
        }  # fmt: skip
        assert all(bool(one.fix) is (one.state is not State.WELL) for one in found.values())
        assert found["model"].message.startswith("bundled on ")

    @pytest.mark.live
    def test_a_setting_that_cannot_be_used(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["doctor", "--port", "http"]) == 1
        assert "WRONG settings     PORT=http" in capsys.readouterr().out

    @pytest.mark.live
    def test_a_model_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("QWEN_MODEL", "/nowhere")
        assert self.results()["model"].state is State.WRONG

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            result = doctor.check_port("127.0.0.1", server.getsockname()[1])
        assert (result.state, "PORT" in result.fix) == (State.NOTE, True)

    @pytest.mark.live
    def test_a_gpu_that_torch_cannot_use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(doctor.hardware, "count_gpus", lambda: 2)
        *_, cuda = doctor.check_torch()
        assert (cuda.state, "USE_GPU=false" in cuda.fix) == (State.WRONG, True)

    def test_too_little_of_something(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert doctor.check_python((3, 10)).state is State.WRONG
        assert doctor.check_memory(GIB).state is State.WRONG
        assert doctor.check_memory(None).state is State.NOTE
        monkeypatch.setattr(doctor, "PACKAGES", ("flask", "no-such-package"))
        monkeypatch.setattr(doctor, "PYTORCH_PACKAGES", ())
        there, missing = doctor.check_packages()
        assert (there.state, missing.state) == (State.WELL, State.WRONG)
        assert "no-such-package" in missing.message
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
        assert "HF_HOME" in doctor.check_cache().fix


@pytest.mark.live
def test_an_interrupted_download_resumes(tmp_path: Path) -> None:
    """With a mirror, in a process of its own: huggingface_hub reads its variables once."""
    command = [sys.executable, "-m", "qwen_captcha", "download", "tiny/reader", "--mirror"]

    def download(url: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, url], cwd=PROJECT, capture_output=True, text=True, check=False,
            timeout=MAX_WAIT_S, env={**os.environ, "HF_HOME": str(tmp_path / "cache"),
                                     "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": ""},
        )  # fmt: skip

    with running_hub("tiny/reader", BUNDLED_CHECKPOINT) as hub:
        hub.withheld.add("model.safetensors")
        torn = download(hub.url)
        assert torn.returncode == 1
        assert "tiny/reader cannot be downloaded" in torn.stderr
        assert "goes on where this one stopped" in torn.stderr
        hub.served.clear()
        hub.withheld.clear()
        whole = download(hub.url)
        assert whole.returncode == 0, whole.stderr
        # How many of the others were whole when the first attempt ended is up to its threads.
        assert "model.safetensors" in hub.served
        assert len(hub.served) < len(list(BUNDLED_CHECKPOINT.iterdir()))
    assert "tiny/reader is complete" in whole.stdout
    assert "QWEN_MODEL=tiny/reader" in whole.stdout


def test_a_failed_load_is_a_1(
    monkeypatch: pytest.MonkeyPatch, captcha: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = FakeBackend(load_error=ModelLoadError("the weights are torn"))
    monkeypatch.setattr(service_module, "create_backend", lambda settings: broken)
    assert main(["read", captcha]) == 1
    assert capsys.readouterr().err == "the weights are torn\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_chinese_is_printed_to_a_pipe_of_any_encoding(
    fake_model: FakeBackend, captcha: str, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    fake_model.respond = lambda request: "验证码"
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding=encoding))
    assert main(["read", captcha]) == 0
    sys.stdout.flush()
    assert "验证码" in pipe.getvalue().decode("utf-8")
