"""docker-compose.qwen.yml and Dockerfile.qwen, in step with the settings, gunicorn and nginx."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from qwen_captcha.settings import PASSED_THROUGH, VARIABLES, load_settings

PROJECT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = PROJECT / "docker-compose.qwen.yml"
DOCKERFILE = (PROJECT / "Dockerfile.qwen").read_text(encoding="utf-8")
NGINX = (PROJECT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
INSTANCES = (PROJECT / "deploy" / "instances.compose.conf").read_text(encoding="utf-8")
# The port and the address to listen on, and the cache's folder, are the image's.
NOT_PASSED_ON = {"HOST", "FLASK_RUN_PORT", "HF_HOME"}
OF_AN_ENGINE = {"QWEN_BACKEND"} | {
    name for variable in VARIABLES for name in variable.names if name.startswith("OPENAI_")
}
MODEL = "Qwen/Qwen2-VL-2B-Instruct"
# Compose's own client, as a plugin of docker or alone; it needs no engine to check a file.
CLIENTS = (["docker", "compose"], ["docker-compose"])


def with_defaults(text: str) -> str:
    """Return a compose file as it is where no variable is set."""
    return re.sub(r"\$\{\w+:(?:-([^}]*)|\+[^}]*)\}", r"\1", text)


SERVICES: dict[str, Any] = yaml.safe_load(with_defaults(COMPOSE_FILE.read_text("utf-8")))[
    "services"
]
CAPTCHA = {name: service for name, service in SERVICES.items() if "captcha" in name}


def seconds(value: str) -> int:
    return int(value.removesuffix("s"))


def test_without_a_profile_the_service_and_nginx_start_without_a_gpu() -> None:
    started = {name: service for name, service in SERVICES.items() if "profiles" not in service}
    assert set(started) == {"qwen-captcha", "nginx"}
    assert all("reservations" not in s["deploy"]["resources"] for s in started.values())


@pytest.mark.parametrize("name", ["qwen-captcha-gpu", "vllm"])
def test_a_gpu_is_reserved_in_a_profile(name: str) -> None:
    [device] = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert SERVICES[name]["profiles"]


@pytest.mark.parametrize("name", CAPTCHA)
def test_its_environment_is_one_that_the_service_starts_with(name: str) -> None:
    # Every value as a text, as a container has it; what is empty counts as not set.
    given = CAPTCHA[name]["environment"].items()
    environment = {variable: str("" if value is None else value) for variable, value in given}
    known = {name for variable in VARIABLES for name in variable.names} | set(PASSED_THROUGH)
    engine = set() if environment.get("QWEN_BACKEND") == "openai" else OF_AN_ENGINE
    assert set(environment) == known - NOT_PASSED_ON - engine
    assert environment["QWEN_MODEL"] == ("bundled" if name == "qwen-captcha-lite" else MODEL)
    settings = load_settings(environment)
    defaults = load_settings({})
    assert (settings.min_pixels, settings.max_pixels) == (defaults.min_pixels, defaults.max_pixels)
    assert f"default captcha:{settings.port};" in INSTANCES
    assert settings.trusted_proxy_count == 1


@pytest.mark.parametrize("name", CAPTCHA)
def test_nginx_resolves_the_service_by_its_name(name: str) -> None:
    assert CAPTCHA[name]["networks"]["default"]["aliases"] == ["captcha"]


@pytest.mark.parametrize("name", CAPTCHA)
def test_the_stop_grace_period_exceeds_the_drain_timeout(name: str) -> None:
    assert seconds(CAPTCHA[name]["stop_grace_period"]) > load_settings({}).drain_timeout_s + 5


def test_the_stop_grace_period_of_nginx_exceeds_its_timeout() -> None:
    [budget] = re.findall(r"^worker_shutdown_timeout (\d+)s;", NGINX, re.MULTILINE)
    assert seconds(SERVICES["nginx"]["stop_grace_period"]) > int(budget)
    assert SERVICES["nginx"]["stop_signal"] == "SIGQUIT"


def test_nginx_is_reached_where_it_listens() -> None:
    [port] = re.findall(r"listen (\d+) default_server;", NGINX)
    assert SERVICES["nginx"]["ports"] == [f"5000:{port}"]
    assert SERVICES["nginx"]["healthcheck"]["test"][-1] == port


def test_nginx_has_the_project_s_files() -> None:
    for volume in SERVICES["nginx"]["volumes"]:
        source, target, mode = volume.split(":")
        assert (PROJECT / source).is_file()
        assert target.startswith("/etc/nginx/")
        assert mode == "ro"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_restarts_and_its_log_is_bounded(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert {"max-size", "max-file"} <= set(SERVICES[name]["logging"]["options"])


@pytest.mark.parametrize("name", [*CAPTCHA, "nginx"])
def test_nothing_but_temporary_files_can_be_written(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    assert service["deploy"]["resources"]["limits"]["memory"]


def directives(name: str) -> list[str]:
    """Return what follows a directive of the Dockerfile, in its order."""
    text = DOCKERFILE.replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in text.splitlines() if line.startswith(f"{name} ")]


def test_the_image_serves_on_the_default_port_as_another_user_than_root() -> None:
    assert directives("EXPOSE") == [str(load_settings({}).port)]
    # Of both images that can be built: `lite`, and the one without a target.
    assert directives("FROM")[-3:] == ["base AS lite", "python:3.13-slim AS pins", "base"]
    assert directives("USER") == ["1000", "1000"]
    assert "useradd --uid 1000" in DOCKERFILE
    assert directives("STOPSIGNAL") == ["SIGTERM"]


def test_the_model_cache_is_the_volume_that_is_mounted() -> None:
    [volume] = directives("VOLUME")
    assert f"HF_HOME={volume}" in DOCKERFILE
    for service in CAPTCHA.values():
        assert service["volumes"] == [f"~/.cache/huggingface:{volume}"]
    assert f"QWEN_MODEL={MODEL}" in DOCKERFILE


def test_both_images_start_onnx_runtime_without_its_telemetry() -> None:
    [_, base, *_] = DOCKERFILE.split("\nFROM ")
    assert base.startswith("python:3.13-slim AS base\n")
    assert " ORT_DISABLE_TELEMETRY=1 " in base


def test_files_of_the_image_are_in_its_build_context() -> None:
    ignore = (PROJECT / ".dockerignore").read_text(encoding="utf-8").split()
    copied = [
        source
        for copy in directives("COPY")
        if "--from" not in copy
        for source in copy.split()[:-1]
    ]
    assert {"requirements_qwen.txt", "qwen_captcha", "qwen_captcha_service.py"} <= set(copied)
    for source in copied:
        assert (PROJECT / source).exists()
        assert f"!{source}" in ignore


@pytest.mark.live
def test_the_health_check_is_the_script_for_users() -> None:
    [check] = directives("HEALTHCHECK")
    assert "CMD python test_qwen_captcha.py --url" in check
    assert "curl" not in check


@pytest.fixture
def client() -> list[str]:
    for command in CLIENTS:
        if shutil.which(command[0]):
            version = subprocess.run([*command, "version"], capture_output=True, check=False)
            if version.returncode == 0:
                return command
    pytest.skip("there is no client of docker compose")


def check(client: list[str], file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Let compose parse a file: its schema, its variables, its references."""
    return subprocess.run(
        [*client, "-f", str(file), *options, "config"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": "/home/user"},
    )


@pytest.mark.live
@pytest.mark.parametrize("options", [(), ("--profile", "gpu"), ("--profile", "vllm")])
def test_compose_accepts_the_file(client: list[str], options: tuple[str, ...]) -> None:
    done = check(client, COMPOSE_FILE, *options)
    assert (done.returncode, done.stderr) == (0, "")
    found = set(yaml.safe_load(done.stdout)["services"])
    profile = options[-1] if options else None
    assert found == {
        name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])
    }


@pytest.mark.live
def test_compose_rejects_an_invalid_file(client: list[str], tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yml"
    wrong.write_text(COMPOSE_FILE.read_text("utf-8").replace("read_only:", "readonly:"), "utf-8")
    done = check(client, wrong)
    assert done.returncode != 0
    assert "readonly" in done.stderr
