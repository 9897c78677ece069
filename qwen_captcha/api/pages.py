"""The page on which images are read, the page of the API's description, and `/openapi.json`.

A page loads nothing from another host, and runs only the scripts in `/assets`. Only GET requests
get HTML.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, render_template

from qwen_captcha.api.openapi.document import openapi_document
from qwen_captcha.settings import Settings

BROWSER_POLICY = {
    # blob: is for the images that the user has chosen.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def create_pages(settings: Settings) -> Blueprint:
    """Return the pages of a service with these settings."""
    pages = Blueprint(
        "pages",
        __name__,
        static_folder="web/assets",
        static_url_path="/assets",
        template_folder="web",
    )
    document = openapi_document(settings)

    @pages.get("/")
    def page() -> str:
        """Return the page on which images are read."""
        return render_template("page.html")

    @pages.get("/docs")
    def docs() -> str:
        """Return the description of the API as HTML."""
        return render_template("docs.html", document=document)

    @pages.get("/openapi.json")
    def openapi() -> Response:
        """Return the description of the API as an OpenAPI document."""
        return jsonify(document)

    @pages.after_request
    def add_security_headers(response: Response) -> Response:
        """Add the security headers to a reply of these routes."""
        response.headers.update(BROWSER_POLICY)
        return response

    return pages
