"""The description of the interface, served.

Responsible for: `/openapi.json`. Leaves what the description says to `openapi/`. Invariant: the
description is made once, of the settings that the service runs with.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from qwen_captcha.openapi.document import openapi_document
from qwen_captcha.settings import Settings


def create_pages(settings: Settings) -> Blueprint:
    """Return the pages of a service with these settings."""
    pages = Blueprint("pages", __name__)
    document = openapi_document(settings)

    @pages.get("/openapi.json")
    def openapi() -> Response:
        """Return the description of the interface for programs."""
        return jsonify(document)

    return pages
