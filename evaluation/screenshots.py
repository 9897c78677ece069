"""Take the screenshots of the page for the documentation.

    python -m evaluation.screenshots --model bundled
    python -m evaluation.screenshots --model FOLDER --out docs/images

They show the page of a real service, without retouching. This needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect, sync_playwright

from evaluation.load.synthetic_captchas import draw_captchas
from evaluation.services.service_process import (
    PROJECT,
    exit_on_sigterm,
    running_service,
)

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
OUT = PROJECT / "docs" / "images"
DESKTOP = (1180, 840)  # Width and height in CSS pixels.
PHONE = (375, 760)
CAPTCHAS = 12  # Each is shown once, so that none of the answers is from the cache.
SEED = 3
COLOURS = 128  # Size of the palette, enough for text and flat panels.


def main() -> int:
    """Take all pictures."""
    arguments = _arguments()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("chromium is not installed: apt-get install chromium", file=sys.stderr)
        return 1
    exit_on_sigterm()
    environment = {"QWEN_MODEL": arguments.model, "HOST": "127.0.0.1", "USE_GPU": "false"}
    with running_service(environment) as service, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures(browser, service.url):
            path = arguments.out / f"{name}.png"
            path.write_bytes(picture)
            print(f"{path}  {len(picture)} bytes")
        browser.close()
    return 0


def pictures(browser: Browser, url: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and PNG of each state."""
    captchas = _captchas()
    with _page(browser, url) as page:
        yield "empty", _picture(page)
        _read(page, captchas[:1])
        yield "answer", _picture(page)
    with _page(browser, url) as page:
        _read(page, captchas[1:3])
        text = b"This file is a text with the name of an image."
        _read(page, [{"name": "notes.png", "mimeType": "image/png", "buffer": text}], before=2)
        yield "error", _picture(page)
    with _page(browser, url, scheme="dark") as page:
        _read(page, captchas[3:11])
        yield "batch", _picture(page)
    with _page(browser, url, size=PHONE, language="zh-CN") as page:
        _read(page, captchas[11:])
        yield "phone", _picture(page)
    with _page(browser, url, path="/docs") as page:
        yield "docs", _picture(page)


def _captchas() -> list[FilePayload]:
    drawn = draw_captchas(CAPTCHAS, seed=SEED)
    return [
        {"name": f"captcha-{number}.png", "mimeType": "image/png", "buffer": data}
        for number, (data, _) in enumerate(drawn, 1)
    ]


@contextmanager
def _page(
    browser: Browser,
    url: str,
    path: str = "/",
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: str = "light",
    language: str = "en-GB",
) -> Iterator[Page]:
    """Open a page of the service, whose model is ready."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if scheme == "dark" else "light",
        locale=language,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url + path)
    if path == "/":
        page.wait_for_selector('#model[data-state="ready"]')
    yield page
    context.close()


def _read(page: Page, captchas: list[FilePayload], *, before: int = 0) -> None:
    """Add images to a page with `before` images, and wait for their answers."""
    page.locator("#files").set_input_files(captchas)
    count = before + len(captchas)
    expect(page.locator('.card[aria-busy="false"]')).to_have_count(count)


def _picture(page: Page) -> bytes:
    """Return the visible part of a page as a PNG with a palette."""
    page.evaluate("document.activeElement.blur()")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    file = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="bundled", help="value of QWEN_MODEL")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the pictures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
