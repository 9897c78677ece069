"""Start the service: `python qwen_captcha_service.py`, with its settings in the environment.

A start that cannot succeed ends with one line and a non-zero status, before a server runs. The WSGI
name for other servers is `qwen_captcha_service:app`.
"""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

from qwen_captcha import app as application
from qwen_captcha.backends.factory import create_backend
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.logs import configure_logging
from qwen_captcha.server.run import become_gunicorn, serve_threaded
from qwen_captcha.settings import SettingsError, settings_from_environment

if TYPE_CHECKING:  # Without Flask, Python itself may be another one, which is reported first.
    from flask import Flask

EXIT_BAD_SETTINGS = 2
SYSTEM = platform.system()


def create_app() -> Flask:
    """Return the application; where it cannot be made, end the process with one line."""
    try:
        settings = settings_from_environment()
        configure_logging(settings.log_level, settings.log_format)
        return application.create_app(settings)
    except (SettingsError, ModelLoadError) as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(application.EXIT_LOAD_FAILED) from None


def __getattr__(name: str) -> Flask:
    """Return `app`, which `flask run` and `gunicorn qwen_captcha_service:app` ask for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = create_app()
    globals()[name] = made
    return made


def main() -> None:
    """Check what can be known before the model is loaded, then serve until stopped."""
    try:
        settings = settings_from_environment()
        create_backend(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EXIT_BAD_SETTINGS) from None
    except ModelLoadError as error:
        print(error, file=sys.stderr)
        raise SystemExit(application.EXIT_LOAD_FAILED) from None
    if SYSTEM == "Windows":
        serve_threaded(create_app(), settings)
    else:
        become_gunicorn()


if __name__ == "__main__":
    main()
