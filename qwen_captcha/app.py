"""The application factory: `create_app` puts the parts together.

Errors that can be found before the model is loaded are raised here, before any request is taken.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable

from flask import Flask

from qwen_captcha.api.dialects.registry import create_dialect_blueprint
from qwen_captcha.api.forms import CaptchaRequest
from qwen_captcha.api.load_shedding import LoadShedding
from qwen_captcha.api.pages import create_pages
from qwen_captcha.api.request_logging import register_request_logging
from qwen_captcha.api.routes import create_blueprint, register_error_handlers
from qwen_captcha.api.security import register_security
from qwen_captcha.api.wsgi import plain_slashes, readable_bodies
from qwen_captcha.backends.base import Backend
from qwen_captcha.backends.factory import create_backend, create_second_backend
from qwen_captcha.collecting.collector import create_collector
from qwen_captcha.errors import ModelLoadError, load_failure
from qwen_captcha.metrics import Metrics
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings, settings_from_environment

# gunicorn stops for good on a worker's exit status 3 and 4; any other one is respawned.
EXIT_LOAD_FAILED = 3
# Parts of a multipart form beyond the images of a batch. Each takes some kB, however small it is.
FURTHER_FORM_PARTS = 1000

log = logging.getLogger(__name__)


def create_app(
    settings: Settings | None = None,
    backend: Backend | None = None,
    *,
    second: Backend | None = None,
    on_load_failure: Callable[[Exception], None] | None = None,
) -> Flask:
    """Return the application; its model is loaded in the background.

    Args:
        settings: The settings; None reads them from the environment.
        backend: The engine; None creates that of the settings.
        second: The second engine; None creates that of the settings, if they name one.
        on_load_failure: Called where the model cannot be loaded; None ends the process.

    Raises:
        SettingsError: A setting cannot be used.
        ModelLoadError: The model cannot be loaded, if that can be found in advance.
    """
    settings = settings or settings_from_environment()
    backend = backend or create_backend(settings)
    second = second or create_second_backend(settings)
    metrics = Metrics()
    collector = create_collector(settings, metrics)
    service = CaptchaService(backend, settings, second=second, metrics=metrics, collector=collector)
    app = Flask("qwen_captcha", static_folder=None)
    app.request_class = CaptchaRequest
    app.extensions["captcha_service"] = service
    app.extensions["load_shedding"] = LoadShedding(service, settings.ocr_timeout_s)
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    # Base64 in a form field; Werkzeug's own limit is 500 kB.
    app.config["MAX_FORM_MEMORY_SIZE"] = settings.max_body_bytes
    app.config["MAX_FORM_PARTS"] = settings.max_batch_images + FURTHER_FORM_PARTS
    app.register_blueprint(create_blueprint(service, settings))
    app.register_blueprint(create_dialect_blueprint(service, settings))
    app.register_blueprint(create_pages(settings))
    register_error_handlers(app, metrics, settings)
    register_request_logging(app, metrics, settings)
    register_security(app, settings)
    readable = readable_bodies(app.wsgi_app)
    app.wsgi_app = plain_slashes(readable)  # type: ignore[assignment, method-assign]
    if collector is not None:
        collector.start()
        atexit.register(collector.close)
    service.start(on_load_failure or end_process)
    return app


def end_process(error: Exception) -> None:
    """Print in one line why the model cannot be loaded, and end this process.

    Called by the thread that owns the model, where raising SystemExit would end only the thread.
    """
    if not isinstance(error, (ModelLoadError, MemoryError)):
        log.error("Loading the model failed.", exc_info=error)
    print(f"The model cannot be loaded: {load_failure(error)}", file=sys.stderr, flush=True)
    os._exit(EXIT_LOAD_FAILED)
