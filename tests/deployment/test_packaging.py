"""`pip install .` installs the whole service, and its command works from any folder."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from qwen_captcha import __version__, cli
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    MAX_WAIT_S,
    PROJECT,
    post,
    running,
    send_and_close,
)

SOURCES = (
    "pyproject.toml", "README.md", "LICENSE", "requirements_lite.txt", "requirements_qwen.txt",
    "qwen_captcha_service.py",
)  # fmt: skip
MAX_BUILD_S = 300.0


def pip(*arguments: str) -> None:
    """Run pip without asking any registry."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    run = subprocess.run(
        [*command, "--no-deps", "--no-index"],
        capture_output=True, text=True, check=False, timeout=MAX_BUILD_S,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build in a copy, as setuptools leaves files behind where it builds."""
    folder = tmp_path_factory.mktemp("build")
    copy = folder / "sources"
    shutil.copytree(
        PROJECT / "qwen_captcha", copy / "qwen_captcha", ignore=shutil.ignore_patterns("*.pyc")
    )
    for name in SOURCES:
        shutil.copy(PROJECT / name, copy)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(copy))
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--target", str(folder), str(wheel))
    return folder


def test_the_script_is_the_command_line() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [(name, value)] = project["scripts"].items()
    assert name == "qwen-captcha"
    assert EntryPoint(name, value, "console_scripts").load() is cli.main


@pytest.mark.live
def test_the_wheel_has_the_package_with_its_data(wheel: Path) -> None:
    package = PROJECT / "qwen_captcha"
    files = {
        str(path.relative_to(PROJECT))
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    named = {
        "server/gunicorn.conf.py",
        "api/web/page.html",
        "checkpoints/qwen2-vl-captcha-mini/config.json",
    }
    assert {f"qwen_captcha/{name}" for name in named} <= files
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files | {"qwen_captcha_service.py"}


@pytest.mark.live
def test_the_wheel_has_its_requirements(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    packages = [needed.replace("'", '"') for needed in metadata.get_all("Requires-Dist", [])]
    assert metadata["Version"] == __version__
    assert [p for p in packages if "extra ==" not in p] == pins("requirements_lite.txt")
    extra = {p.split(";")[0].strip() for p in packages if p.endswith('extra == "qwen"')}
    assert extra == set(pins("requirements_qwen.txt")) - set(pins("requirements_lite.txt"))
    assert any(needed.startswith("peft==") and "extra ==" in needed for needed in packages)


def pins(name: str) -> list[str]:
    """Return the lines of a file of requirements that are no comments."""
    lines = (PROJECT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_the_install_with_pytorch_has_all_of_the_light_one() -> None:
    assert set(pins("requirements_lite.txt")) < set(pins("requirements_qwen.txt"))


@pytest.mark.live
def test_the_installed_command_reads_from_another_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "captcha.png").write_bytes(image_bytes(120))
    run = subprocess.run(
        [str(installed / "bin" / "qwen-captcha"), "read", "captcha.png", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed), "QWEN_MODEL": "bundled"},
        capture_output=True, text=True, check=False, timeout=MAX_WAIT_S,
    )  # fmt: skip
    assert run.returncode in (0, cli.EXIT_NOT_ALL), run.stderr
    assert json.loads(run.stdout)["image"] == "captcha.png"


@pytest.mark.live
def test_the_installed_command_serves_from_another_folder(installed: Path, tmp_path: Path) -> None:
    command = ("env", "-C", str(tmp_path), str(installed / "bin" / "qwen-captcha"), "serve")
    variables = {"QWEN_MODEL": "bundled", "USE_GPU": "false", "PYTHONPATH": str(installed)}
    with running(command, **variables) as server:
        server.wait_until_ready()
        page = b"GET / HTTP/1.1\r\nHost: captcha\r\n\r\n"
        answer, html = send_and_close(server.port, [post(image_bytes(120)), page])
    assert "raw_response" in answer.json
    assert (html.status, b"<html" in html.body) == (200, True)


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13)])
def test_an_old_python_is_reported_with_the_minimum_version(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit, match=f"needs Python 3.11 .* Python 3.{version[1]}"):
        runpy.run_path(str(PROJECT / "qwen_captcha" / "__init__.py"))
