from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from flask import Flask
from flask.testing import FlaskClient

from qwen_captcha.app import create_app
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings, load_settings
from tests.support.fake_backend import MAX_WAIT_S, FakeBackend, ServiceFactory
from tests.support.fake_clock import FakeClock

# A deadline would test the machine's speed, and its load.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

LIVE_MODULE = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.live\b", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the modules that are live as a whole, instead of importing them, and PyTorch."""
    if config.option.markexpr != "not live" or not collection_path.name.startswith("test_"):
        return None
    if collection_path.suffix == ".py":
        return LIVE_MODULE.search(collection_path.read_text(encoding="utf-8")) is not None or None
    return None


@pytest.fixture
def unchanged_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep a command that runs in this process from setting levels and handlers of the log."""
    monkeypatch.setattr("qwen_captcha.cli.configure_logging", lambda level, log_format: None)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def settings() -> Settings:
    return load_settings({})


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    backend = FakeBackend()
    yield backend
    backend.release()


@pytest.fixture
def start_service() -> Iterator[ServiceFactory]:
    """Start a ready service with a backend, and settings given by their variables."""
    services = []

    def start(
        backend: FakeBackend,
        clock: FakeClock | None = None,
        *,
        second: FakeBackend | None = None,
        **variables: str,
    ) -> CaptchaService:
        clocks = {} if clock is None else {"monotonic": clock}
        service = CaptchaService(backend, load_settings(variables), second=second, **clocks)
        service.start(on_failure=pytest.fail)
        assert service.wait_until_loaded(MAX_WAIT_S)
        services.append(service)
        return service

    yield start
    for service in services:
        service.begin_drain()


@pytest.fixture
def app(backend: FakeBackend, settings: Settings) -> Iterator[Flask]:
    """Return an application that is ready, with the fixture `backend`."""
    app = create_app(settings, backend)
    service: CaptchaService = app.extensions["captcha_service"]
    assert service.wait_until_loaded(MAX_WAIT_S)
    yield app
    service.begin_drain()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
