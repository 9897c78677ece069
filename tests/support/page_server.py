"""The pages in a browser: a service in this process, Debian's chromium in one of its own."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from flask import Flask
from playwright.sync_api import Browser, Page, Request, ViewportSize, sync_playwright
from werkzeug.serving import make_server

from qwen_captcha.recognition.reading import (
    GenerationOutput,
    GenerationRequest,
    TokenLogprob,
)
from tests.support.fake_backend import FakeBackend

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DESKTOP: ViewportSize = {"width": 1280, "height": 800}
# Longest wait for anything on the page, in milliseconds; only a failing test waits so long.
TIMEOUT_MS = 20_000


class SureBackend(FakeBackend):
    """Reads with a token for each character, and knows one other reading."""

    def read(self, tasks: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        return [
            GenerationOutput(
                reading.raw_response,
                -0.25,
                complete=True,
                tokens=tuple(TokenLogprob(letter, -0.05) for letter in reading.raw_response),
                alternatives=(GenerationOutput("other", -2.0, complete=True),),
            )
            for reading in super().read(tasks)
        ]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(app: Flask) -> Iterator[str]:
    """Serve an application on a free loopback port; yield its URL without a slash at its end."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Visit:
    """A page, all that it asked for, and what the browser complained about."""

    page: Page
    url: str
    requests: list[Request]
    complaints: list[str]

    @property
    def readings(self) -> list[Request]:
        """The calls of the reading route so far."""
        return [request for request in self.requests if request.url == f"{self.url}/ocr"]


@contextmanager
def visiting(
    browser: Browser,
    url: str,
    path: str = "/",
    *,
    viewport: ViewportSize = DESKTOP,
    javascript: bool = True,
    language: str = "en-GB",
) -> Iterator[Visit]:
    """Open a page with a clean browser profile that may use the clipboard."""
    context = browser.new_context(
        viewport=viewport, java_script_enabled=javascript, locale=language
    )
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    visit = Visit(page, url, [], [])
    page.on("request", lambda request: visit.requests.append(request))
    page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    page.on("console", lambda line: visit.complaints.append(line.text))
    try:
        page.goto(url + path)
        yield visit
    finally:
        context.close()
