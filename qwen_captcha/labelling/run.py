"""The command that serves the label page while the model reads images in the background."""

from __future__ import annotations

import secrets
import shlex
import threading
from pathlib import Path

from werkzeug.serving import WSGIRequestHandler, make_server

from qwen_captcha.labelling.page import create_label_app
from qwen_captcha.labelling.session import LabelSession
from qwen_captcha.settings import Settings

HOST = "127.0.0.1"


class SilentHandler(WSGIRequestHandler):
    """Logs no request, because its path has the token."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


def label_folder(folder: Path, settings: Settings, program: str, port: int) -> None:
    """Serve the label page of a folder until interrupted, then print the progress.

    Args:
        folder: The folder of the images.
        settings: Model and limits of the guesses.
        program: Name of this program, for the next command that is printed.
        port: Port to listen on; 0 takes a free one.

    Raises:
        LabelsError: The folder cannot be labelled.
    """
    session = LabelSession(folder, settings)
    token = secrets.token_urlsafe(16)
    fit_command = f"{program} fit {shlex.quote(str(folder))} --out MODEL"
    addresses: set[str] = set()
    app = create_label_app(session, token, addresses, fit_command)
    server = make_server(HOST, port, app, threaded=True, request_handler=SilentHandler)
    addresses.update(f"{name}:{server.server_port}" for name in (HOST, "localhost"))
    threading.Thread(target=session.guess_all, name="guesses", daemon=True).start()
    print(f"{len(session.files)} images. Open http://{HOST}:{server.server_port}/{token}/")
    print("Labels are written at once; Ctrl-C ends.", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()
    progress = session.progress()
    print(
        f"\n{progress.labelled} of {progress.images} images are labelled. Next: {fit_command}",
        flush=True,
    )
