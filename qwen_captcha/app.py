"""create_app: the parts put together.

Responsible for: building the backend that the settings ask for, wiring it to the routes, starting
to load it, ending the process where it cannot be loaded. Invariant: what can be known to be wrong
before the model is loaded is raised from here, before any request is taken.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from flask import Flask

from qwen_captcha.access import observe_requests
from qwen_captcha.backends.base import Backend, BackendLoadError
from qwen_captcha.backends.hardware import count_gpus
from qwen_captcha.checkpoints import resolve_model
from qwen_captcha.dialect_routes import create_dialect_blueprint
from qwen_captcha.guard import guard_requests
from qwen_captcha.pages import create_pages
from qwen_captcha.routes import create_blueprint, register_error_handlers, single_slashes
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings, SettingsError, settings_from_environment
from qwen_captcha.uploads import bound_bodies

# gunicorn stops for good on a worker's exit status 3 and 4; any other one is respawned.
EXIT_LOAD_FAILED = 3
# Parts of a multipart form beyond the images of a batch. Each takes some kB, however small it is.
FURTHER_FORM_PARTS = 1000

log = logging.getLogger(__name__)


def create_app(
    settings: Settings | None = None,
    backend: Backend | None = None,
    *,
    on_load_failure: Callable[[Exception], None] | None = None,
) -> Flask:
    """Return the application, whose model is being loaded in the background.

    Args:
        settings: The settings; None reads them from the environment.
        backend: The engine; None builds the one that the settings ask for.
        on_load_failure: Called where the model cannot be loaded; None ends the process.

    Raises:
        SettingsError: A setting cannot be used.
        BackendLoadError: The model cannot be loaded, as far as can be known in advance.
    """
    settings = settings or settings_from_environment()
    service = CaptchaService(backend or checked_backend(settings), settings)
    app = Flask("qwen_captcha", static_folder=None)
    app.extensions["captcha_service"] = service
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # Base64 in a form field; Werkzeug's own limit is 500 kB.
    app.config["MAX_FORM_MEMORY_SIZE"] = settings.max_body_bytes
    app.config["MAX_FORM_PARTS"] = settings.max_batch_images + FURTHER_FORM_PARTS
    app.register_blueprint(create_blueprint(service, settings))
    app.register_blueprint(create_dialect_blueprint(service, settings))
    app.register_blueprint(create_pages(settings))
    register_error_handlers(app, service.metrics, settings)
    observe_requests(app, service.metrics, settings)
    guard_requests(app, settings)
    bounded = bound_bodies(app.wsgi_app, settings.max_body_bytes)
    app.wsgi_app = single_slashes(bounded)  # type: ignore[assignment, method-assign]
    service.start(on_load_failure or end_process)
    return app


def checked_backend(settings: Settings) -> Backend:
    """Return the backend that the settings ask for, checked but not loaded.

    Raises:
        BackendLoadError: There is no such checkpoint, or it cannot be used here.
        SettingsError: Several workers would share a GPU.
    """
    if settings.qwen_backend == "openai":
        return remote_backend(settings)
    from qwen_captcha.backends.qwen2vl import Qwen2VLBackend

    if settings.workers > 1 and settings.use_gpu and count_gpus() > 0:
        raise SettingsError(
            f"WORKERS={settings.workers} cannot be used: it must be 1 on a GPU, where each worker "
            "would hold the model once more and they would take turns."
        )
    checkpoint, model_name = resolve_model(settings.qwen_model)
    backend = Qwen2VLBackend(
        checkpoint,
        model_name=model_name,
        use_gpu=settings.use_gpu,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        workers=settings.workers,
    )
    backend.check()
    return backend


def remote_backend(settings: Settings) -> Backend:
    """Return the backend that asks the server of the settings.

    A checkpoint that also lies here, where such a server got its path from, says itself what it
    can do and which range of pixels it wants.
    """
    from qwen_captcha.backends.openai_compat import OpenAIBackend
    from qwen_captcha.model_files import CaptchaFacts, read_facts

    model = resolve_model(settings.qwen_model) if settings.qwen_model else None
    facts = read_facts(Path(model.checkpoint), model.model_name) if model else CaptchaFacts()
    return OpenAIBackend(
        settings.openai_base_url,
        api_key=settings.openai_api_key,
        server=settings.openai_server,
        model=model,
        facts=facts,
        pixel_range=facts.pixel_range or (settings.min_pixels, settings.max_pixels),
        concurrency=settings.openai_concurrency,
    )


def end_process(error: Exception) -> None:
    """Say in one line why the model cannot be loaded, and end this process.

    Called by the thread that owns the model, where raising SystemExit would end only the thread.
    """
    if not isinstance(error, (BackendLoadError, MemoryError)):
        log.error("Loading the model failed.", exc_info=error)
    print(f"The model cannot be loaded: {load_failure(error)}", file=sys.stderr, flush=True)
    os._exit(EXIT_LOAD_FAILED)


def load_failure(error: Exception) -> str:
    """Return one line about what went wrong while loading."""
    if isinstance(error, MemoryError):
        return "it does not fit into the memory; choose a smaller model with QWEN_MODEL."
    return " ".join(str(error).split()) or type(error).__name__
