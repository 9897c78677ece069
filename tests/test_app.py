from __future__ import annotations

import threading
from io import BytesIO

import pytest
from werkzeug.test import TestResponse

from qwen_captcha import app as app_module
from qwen_captcha.app import (
    EXIT_LOAD_FAILED,
    FURTHER_FORM_PARTS,
    create_app,
    end_process,
)
from qwen_captcha.backends import factory
from qwen_captcha.backends.factory import create_backend
from qwen_captcha.errors import ModelLoadError, load_failure
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings, SettingsError, load_settings
from tests.support.fake_backend import (
    MAX_WAIT_S,
    FakeBackend,
    image_bytes,
)


def test_the_environment_is_used_where_no_settings_are_given(
    monkeypatch: pytest.MonkeyPatch, backend: FakeBackend
) -> None:
    monkeypatch.setenv("MAX_IMAGE_BYTES", "1024")
    app = create_app(backend=backend)
    response = app.test_client().post("/ocr", data=b"x" * 1025, content_type="image/png")
    assert response.status_code == 413
    app.extensions["captcha_service"].begin_drain()


def test_a_batch_may_have_more_files_than_flask_takes_by_default(backend: FakeBackend) -> None:
    limits = {"MAX_BATCH_IMAGES": "1200", "MAX_QUEUE_SIZE": "1200", "HTTP_THREADS": "1201"}
    app = create_app(load_settings(limits), backend)
    client = app.test_client()

    def post(images: int) -> TestResponse:
        files = [(BytesIO(b"no image"), "x.png") for _ in range(images)]
        return client.post("/batch-ocr", data={"images": files})

    try:
        assert app.extensions["captcha_service"].wait_until_loaded(MAX_WAIT_S)
        assert len(post(1200).get_json()["results"]) == 1200
        assert post(1201).get_json()["error_type"] == "too_many_images"
        fields = {"field": ["1"] * (1200 + FURTHER_FORM_PARTS + 1)}
        refused = client.post("/batch-ocr", data=fields, content_type="multipart/form-data")
        assert refused.status_code == 413
        assert refused.get_json()["error"] == "The form has more than 2200 parts."
    finally:
        app.extensions["captcha_service"].begin_drain()


def test_a_setting_that_cannot_be_used_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "http")
    with pytest.raises(SettingsError, match="PORT=http"):
        create_app(backend=FakeBackend())


def test_the_backend_is_checked_before_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    def refuse(settings: Settings) -> FakeBackend:
        raise ModelLoadError("no such checkpoint")

    monkeypatch.setattr(app_module, "create_backend", refuse)
    with pytest.raises(ModelLoadError, match="no such checkpoint"):
        create_app(settings)


@pytest.mark.parametrize(("use_gpu", "gpus", "refused"), [
    ("true", 1, True), ("false", 1, False), ("true", 0, False),
])  # fmt: skip
def test_several_workers_do_not_share_a_gpu(
    monkeypatch: pytest.MonkeyPatch, use_gpu: str, gpus: int, refused: bool
) -> None:
    monkeypatch.setattr(factory, "count_gpus", lambda: gpus)
    settings = load_settings({"WORKERS": "2", "USE_GPU": use_gpu, "QWEN_MODEL": "bundled"})
    if refused:
        with pytest.raises(SettingsError, match="WORKERS=2 cannot be used: it must be 1"):
            create_backend(settings)
    else:
        assert create_backend(settings).model_name == "bundled"


def test_a_failed_load_is_reported(settings: Settings) -> None:
    failures: list[Exception] = []
    reported = threading.Event()
    error = ModelLoadError("the weights are torn")
    app = create_app(
        settings,
        FakeBackend(load_error=error),
        on_load_failure=lambda failure: (failures.append(failure), reported.set()),
    )
    assert reported.wait(MAX_WAIT_S)
    assert failures == [error]
    response = app.test_client().get("/health")
    assert (response.status_code, response.json["model_status"]) == (503, "failed")
    assert response.json["error"] == "The model could not be loaded."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModelLoadError("no such\ncheckpoint"), "no such checkpoint"),
        (ValueError(), "ValueError"),
        (
            MemoryError(),
            "it does not fit into the memory; choose a smaller model with QWEN_MODEL.",
        ),
    ],
    ids=["load error", "bug", "memory"],
)
def test_a_failed_load_is_one_line(error: Exception, line: str) -> None:
    assert load_failure(error) == line


def test_a_failed_load_ends_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    statuses: list[int] = []
    monkeypatch.setattr(app_module.os, "_exit", statuses.append)
    end_process(ModelLoadError("the weights are torn"))
    assert statuses == [EXIT_LOAD_FAILED]
    assert capsys.readouterr().err == "The model cannot be loaded: the weights are torn\n"


def test_two_applications_do_not_share_anything(settings: Settings) -> None:
    one, other = FakeBackend(lambda task: "one"), FakeBackend(lambda task: "other")
    texts = []
    for backend in (one, other):
        app = create_app(settings, backend)
        service = app.extensions["captcha_service"]
        assert isinstance(service, CaptchaService)
        assert service.wait_until_loaded(MAX_WAIT_S)
        response = app.test_client().post("/ocr", data=image_bytes(), content_type="image/png")
        texts.append(response.json["text"])
        service.begin_drain()
    assert texts == ["one", "other"]
