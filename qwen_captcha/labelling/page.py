"""The label page over HTTP: HTML, images of the folder, labels as JSON.

A request without the token, from a page of another origin or under another host name is rejected. A
label is on disk when its reply is sent. The content type of an image comes from its bytes.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from flask import Blueprint, Flask, Response, jsonify, render_template, request, send_from_directory
from werkzeug.exceptions import HTTPException

from qwen_captcha.api.pages import BROWSER_POLICY
from qwen_captcha.collecting.labels import LabelsError, Mark
from qwen_captcha.labelling.session import LabelSession

WEB = Path(__file__).parent / "web"
# Files that the page shares with the page of the service.
SHARED_ASSETS = Path(__file__).parents[1] / "api" / "web" / "assets"
SHARED = ("base.css", "icon.svg", "languages.js")
# The body holds one label and the name of its file.
MAX_BODY_BYTES = 16 * 1024
OPEN_PRINTED = "open the whole address that `qwen-captcha label` printed."


class RequestError(Exception):
    """A request that is answered with an error; the message is a sentence for the page."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def create_label_app(
    session: LabelSession, token: str, addresses: Collection[str], fit_command: str
) -> Flask:
    """Return the application of one labelling session.

    Args:
        session: The folder.
        token: First part of every path.
        addresses: Allowed values of the header Host, such as `127.0.0.1:8000`.
        fit_command: The command that the page shows as the next step.
    """
    app = Flask("qwen_captcha.labelling", static_folder=None, template_folder=str(WEB))
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.register_blueprint(_routes(session, fit_command), url_prefix="/<token>")
    expected = token.encode()

    @app.before_request
    def reject_other_origins() -> None:
        """Reject a request that does not come from the page that the command printed."""
        given = request.path.split("/")[1].encode()
        if not hmac.compare_digest(given, expected):
            raise RequestError(403, f"The address lacks its token: {OPEN_PRINTED}")
        # DNS rebinding: the host name of another site may resolve to this machine.
        if request.host not in addresses:
            raise RequestError(403, f"This host name is not allowed: {OPEN_PRINTED}")
        origin = request.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in addresses:
            raise RequestError(
                403, "Pages of other origins may not send requests to the label page."
            )

    @app.after_request
    def add_security_headers(response: Response) -> Response:
        """Add the security headers to a reply."""
        response.headers.update(BROWSER_POLICY)
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.errorhandler(RequestError)
    def render_error(error: RequestError) -> tuple[Response, int]:
        return jsonify({"error": str(error)}), error.status

    @app.errorhandler(LabelsError)
    def not_a_label(error: LabelsError) -> tuple[Response, int]:
        return jsonify({"error": str(error)}), 400

    @app.errorhandler(OSError)
    def not_written(error: OSError) -> tuple[Response, int]:
        return jsonify({"error": f"The label cannot be written: {error.strerror}."}), 500

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> tuple[Response, int]:
        return jsonify({"error": error.description}), error.code or 500

    return app


def _routes(session: LabelSession, fit_command: str) -> Blueprint:
    """Return the routes below the token."""
    routes = Blueprint("label", __name__)

    @routes.url_value_preprocessor
    def drop_token(endpoint: str | None, values: dict[str, str] | None) -> None:
        """Remove the token, which is checked already, from the arguments of a view."""
        (values or {}).pop("token", None)

    @routes.get("/")
    def page() -> str:
        return render_template("label.html", fit_command=fit_command)

    @routes.get("/assets/<name>")
    def asset(name: str) -> Response:
        folder = SHARED_ASSETS if name in SHARED else WEB / "assets"
        return send_from_directory(folder, name)

    @routes.get("/images/<file>")
    def image(file: str) -> Response:
        """Return an image; a file whose content is no image is not found."""
        picture = session.picture(file)
        if picture is None:
            raise RequestError(404, "The folder has no such image.")
        return Response(picture.data, mimetype=picture.media_type)

    @routes.get("/state")
    def state() -> Response:
        """Return all images with the label or mark that each has on disk."""
        known = session.labels()
        return jsonify(
            folder=str(session.folder),
            images=[
                {
                    "file": file,
                    "label": known.labels[file].text if file in known.labels else None,
                    "mark": known.marks.get(file),
                }
                for file in session.files
            ],
        )

    @routes.get("/guesses")
    def guesses() -> Response:
        """Return the guesses after the first `after`, whether all are made, and a failure."""
        after = request.args.get("after", 0, int)
        found, finished, failure = session.guesses(max(0, after))
        return jsonify(
            guesses=[asdict(guess) for guess in found], finished=finished, failure=failure
        )

    @routes.post("/labels")
    def label() -> Response:
        """Write a label, or a mark."""
        file, text, mark = _requested_change()
        try:
            if mark is not None:
                session.set_mark(file, mark)
                return jsonify(file=file, label=None, mark=mark)
            return jsonify(file=file, label=session.set_label(file, text).text, mark=None)
        except KeyError:
            raise RequestError(404, "The folder has no such image.") from None

    return routes


def _requested_change() -> tuple[str, str, Mark | None]:
    """Return file, label and mark of a request; the label is ignored where there is a mark."""
    fields = request.get_json()
    if not isinstance(fields, dict):
        raise RequestError(400, "The body must be a JSON object.")
    file, text, mark = fields.get("file"), fields.get("label", ""), fields.get("mark")
    if not (isinstance(file, str) and isinstance(text, str)):
        raise RequestError(400, "file and label must be strings.")
    if mark is not None and mark not in (Mark.SKIPPED, Mark.UNREADABLE):
        raise RequestError(400, "mark must be skipped or unreadable.")
    return file, text, None if mark is None else Mark(mark)
