"""The start of an HTTP server: gunicorn, or a plain threaded server on Windows without gunicorn.

Replies of the server itself, such as 400 for a malformed request, are JSON error objects, too.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from qwen_captcha.errors import BadRequest, error_body
from qwen_captcha.settings import Settings

GUNICORN_CONFIGURATION = Path(__file__).parent / "gunicorn.conf.py"

log = logging.getLogger(__name__)


def become_gunicorn() -> NoReturn:
    """Replace this process by gunicorn.

    A new interpreter is started, because a forked worker cannot use CUDA or OpenMP after this
    process has used them.
    """
    command = [sys.executable, "-m", "gunicorn", "--config", str(GUNICORN_CONFIGURATION)]
    os.execv(sys.executable, command)


def serve_threaded(app: Flask, settings: Settings) -> None:
    """Serve with one thread a connection until interrupted, then drain."""
    server = make_server(
        settings.host, settings.port, app, threaded=True, request_handler=JsonRequestHandler
    )
    log.info("Listening on http://%s:%d", settings.host, server.port)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        app.extensions["captcha_service"].drain(settings.drain_timeout_s)


class JsonRequestHandler(WSGIRequestHandler):
    """Answers malformed HTTP with the JSON object of an error."""

    # A malformed request line names no version; with the inherited 0.9 a reply has no status.
    default_request_version = "HTTP/1.1"
    error_content_type = "application/json"
    error_message_format = json.dumps(
        error_body(BadRequest.error_type, "The request is not valid HTTP.")
    ).replace("%", "%%")
