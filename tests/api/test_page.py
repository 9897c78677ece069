"""The page at `/` in a browser, with a backend that reads an image as its width."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from flask import Flask
from playwright.sync_api import Browser, FilePayload, expect

from qwen_captcha.app import create_app
from qwen_captcha.recognition.reading import GenerationRequest
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import (
    MAX_WAIT_S,
    FakeBackend,
    image_bytes,
)
from tests.support.page_server import (
    CHROMIUM,
    SureBackend,
    Visit,
    chromium,
    served,
    visiting,
)

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]

WEB = Path(__file__).resolve().parents[2] / "qwen_captcha" / "api" / "web"
AT_ONCE = 6
EVENTS = {
    "paste": "new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true})",
    "drop": "new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})",
}
Opener = Callable[..., Visit]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opener]:
    """Serve an application and open its page; what the browser complains about fails the test."""
    with ExitStack() as stack:
        visits: list[Visit] = []

        def open_(app: Flask, **how: object) -> Visit:
            url = stack.enter_context(served(app))
            visits.append(stack.enter_context(visiting(browser, url, **how)))
            return visits[-1]

        yield open_
        for visit in visits:
            errors = "the server responded with a status of"
            assert [line for line in visit.complaints if errors not in line] == []
            assert [entry.url for entry in visit.requests if not is_own(entry.url, visit)] == []


def is_own(address: str, visit: Visit) -> bool:
    return address.startswith((f"{visit.url}/", f"blob:{visit.url}/"))


def app_with(backend: FakeBackend, *, wait: bool = True, **variables: str) -> Flask:
    app = create_app(load_settings(variables), backend)
    if wait:
        assert app.extensions["captcha_service"].wait_until_loaded(MAX_WAIT_S)
    return app


def picture(name: str = "one.png", width: int = 120) -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": image_bytes(width)}


def choose(visit: Visit, *pictures: FilePayload) -> None:
    visit.page.locator("#files").set_input_files(list(pictures))


def hand_over(visit: Visit, event: str, *widths: int) -> None:
    """Paste or drop images of some widths, as the browser would tell the page."""
    files = [list(image_bytes(width)) for width in widths]
    script = f"""(files) => {{
        const data = new DataTransfer();
        files.forEach((bytes, index) =>
            data.items.add(new File([new Uint8Array(bytes)], `${{index}}.png`)));
        document.body.dispatchEvent({EVENTS[event]});
    }}"""
    visit.page.evaluate(script, files)


def test_one_image_is_read_with_all_that_is_known_of_it(open_page: Opener) -> None:
    visit = open_page(app_with(SureBackend()))
    page = visit.page
    expect(page.locator("#model")).to_contain_text("Ready fake-model · cpu · 2.0.0")
    choose(visit, picture())
    card = page.locator(".card")
    expect(card.locator(".answer")).to_have_text("w120")
    expect(card.locator(".confidence")).to_have_text("82 %")
    expect(card.locator(".kind")).to_have_text("letters and digits")
    expect(card.locator(".time")).to_have_text(re.compile(r"^[\d.]+ ms$"))
    expect(card.locator(".raw dd")).to_have_text("w120")
    expect(card.locator(".characters .share")).to_have_text(["w95 %", "195 %", "295 %", "095 %"])
    expect(card.locator(".alternatives .share")).to_have_text(["other14 %"])
    expect(card.locator(".timing dd")).to_contain_text("in the queue")
    expect(page.locator("#news")).to_have_text("one.png: w120, Confidence 82 %")
    card.get_by_role("button", name="Copy w120").click()
    expect(page.locator("#news")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "w120"


@pytest.mark.parametrize("event", EVENTS)
def test_a_pasted_or_dropped_image_is_read(open_page: Opener, event: str) -> None:
    visit = open_page(app_with(FakeBackend()))
    hand_over(visit, event, 101, 102)
    expect(visit.page.locator(".answer")).to_have_text(["w101", "w102"])


def test_at_most_six_requests_run_at_once(open_page: Opener) -> None:
    backend = FakeBackend()
    visit = open_page(app_with(backend))
    expect(visit.page.locator("#model")).to_contain_text("Ready")
    backend.hold()
    choose(visit, *[picture(f"{width}.png", width) for width in range(100, 110)])
    expect(visit.page.locator('[data-state="reading"]')).to_have_count(AT_ONCE)
    expect(visit.page.locator('[data-state="waiting"]')).to_have_count(4)
    assert len(visit.readings) == AT_ONCE
    backend.release()
    expect(visit.page.locator("#summary")).to_have_text("10 of 10 done, 10 read, 0 failed")
    expect(visit.page.locator("#news")).to_have_text("10 of 10 done, 10 read, 0 failed")
    assert len(visit.readings) == 10
    visit.page.get_by_role("button", name="Copy all").click()
    copied = visit.page.evaluate("navigator.clipboard.readText()")
    assert copied.splitlines() == [f"{width}.png\tw{width}" for width in range(100, 110)]
    visit.page.get_by_role("button", name="Clear").click()
    expect(visit.page.locator(".card")).to_have_count(0)


def test_a_bad_image_fails_alone_and_can_be_tried_again(open_page: Opener) -> None:
    visit = open_page(app_with(FakeBackend()))
    text: FilePayload = {"name": "x.txt", "mimeType": "text/plain", "buffer": b"no image"}
    choose(visit, picture(), text)
    expect(visit.page.locator("#summary")).to_have_text("2 of 2 done, 1 read, 1 failed")
    card = visit.page.locator('.card[data-state="failed"]')
    expect(card.locator(".error")).to_contain_text("415 unsupported_image_type")
    card.get_by_role("button", name="Try again").click()
    expect(visit.page.locator("#summary")).to_have_text("2 of 2 done, 1 read, 1 failed")
    assert len(visit.readings) == 3


def test_options_are_sent_by_the_page_and_by_its_command(open_page: Opener, tmp_path: Path) -> None:
    prompt = "it's $HOME; 文"

    def respond(task: GenerationRequest) -> str:
        allowed = task.constraints.charset
        read = "".join(c for c in "a@1'b" if allowed is None or c in allowed)
        return read + "-asked" * (task.prompt == prompt)

    visit = open_page(app_with(FakeBackend(respond)))
    page = visit.page
    page.get_by_label("Allowed characters").fill("@'ab ")
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Least confidence").fill("0.9")
    name = "it's; a,b.png"
    choose(visit, picture(name))
    answer = page.locator(".answer")
    expect(answer).to_have_text("a@'b-asked")
    expect(page.locator(".low")).to_have_text("below 0.9")
    command = page.locator("#command").inner_text()
    (tmp_path / name).write_bytes(image_bytes(120))
    said = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    assert json.loads(said.stdout)["text"] == "a@'b-asked"
    page.get_by_label("Prompt").fill("")
    page.get_by_role("button", name="Read all again").click()
    expect(answer).to_have_text("a@'b")


def test_the_page_asks_for_a_key_where_one_is_required(open_page: Opener) -> None:
    key = "a-key-of-this-test-0123456789"
    visit = open_page(app_with(FakeBackend(), API_KEYS=key))
    page = visit.page
    field = page.get_by_label("API key")
    expect(field).to_be_hidden()
    choose(visit, picture(), picture("two.png", 130))
    expect(page.locator(".error code")).to_have_text(["401 unauthorized"] * 2)
    expect(field).to_be_focused()
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_text(["w120", "w130"])
    expect(page.locator("#command")).to_contain_text('-H "X-API-Key: $API_KEY"')
    assert key not in page.locator("body").inner_text()


def test_images_wait_for_a_model_that_loads(open_page: Opener) -> None:
    backend = FakeBackend()
    backend.hold()
    visit = open_page(app_with(backend, wait=False))
    expect(visit.page.locator("#model")).to_have_text("Loading the model… fake-model · cpu · 2.0.0")
    choose(visit, picture())
    expect(visit.page.locator(".answer")).to_have_text("Waiting…")
    assert visit.readings == []
    backend.release()
    expect(visit.page.locator("#model")).to_contain_text("Ready")
    expect(visit.page.locator(".answer")).to_have_text("w120")


def test_the_page_is_in_chinese_for_a_chinese_browser_and_stores_the_choice(
    open_page: Opener,
) -> None:
    visit = open_page(app_with(FakeBackend()), language="zh-CN")
    page = visit.page
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    choose(visit, picture())
    expect(page.locator(".kind")).to_have_text("字母和数字")
    page.get_by_role("button", name="English").click()
    expect(page.locator(".kind")).to_have_text("letters and digits")
    expect(page.locator("#model-state")).to_have_text("Ready")
    page.reload()
    expect(page.locator("label[for=files]")).to_have_text("Choose captchas")


def test_both_languages_have_every_word_of_the_page(open_page: Opener) -> None:
    page = open_page(app_with(FakeBackend())).page
    script = "import('./assets/words.js').then((module) => module.LANGUAGES)"
    languages = page.evaluate(script)
    assert set(languages) == {"en", "zh"}
    assert set(languages["en"]) == set(languages["zh"])
    html = (WEB / "page.html").read_text(encoding="utf-8")
    named = re.findall(r'data-text="(\w+)"[^>]*>([^<]*)', html)
    assert len(named) > 30
    assert [(name, languages["en"][name]) for name, _ in named] == named


def test_it_works_from_the_keyboard(open_page: Opener) -> None:
    visit = open_page(app_with(FakeBackend()))
    page = visit.page
    # The browser hands choosers over only some time after a page has asked for them.
    page.on("filechooser", lambda _: None)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the answers")).to_be_focused()
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([picture()])
    expect(page.locator(".answer")).to_have_text("w120")
    page.locator("#clear").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Copy w120")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#news")).to_have_text("Copied")


@pytest.mark.parametrize(("path", "scheme"), [("/", "light"), ("/", "dark"), ("/docs", "light")])
def test_axe_finds_no_fault(open_page: Opener, path: str, scheme: str) -> None:
    visit = open_page(app_with(SureBackend()), path=path)
    visit.page.emulate_media(color_scheme=scheme)
    if path == "/":
        broken: FilePayload = {"name": "x.png", "mimeType": "image/png", "buffer": b"x"}
        choose(visit, picture(), broken)
        expect(visit.page.locator("#summary")).to_contain_text("2 of 2 done")
    results = Axe().run(visit.page)
    assert results.violations_count == 0, results.generate_report()
    assert len(results.response["passes"]) > 20


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_phone_needs_no_scrolling_to_the_side(open_page: Opener, path: str) -> None:
    visit = open_page(app_with(FakeBackend()), path=path, viewport={"width": 360, "height": 640})
    if path == "/":
        choose(visit, picture("a-name-that-is-long-and-has-no-space-at-all.png", 900))
        expect(visit.page.locator(".answer")).to_have_text("w900")
    widths = "[document.documentElement.scrollWidth, innerWidth]"
    scrolled, seen = visit.page.evaluate(widths)
    assert scrolled <= seen


def test_an_injected_script_is_not_run(browser: Browser) -> None:
    app = app_with(FakeBackend())
    with served(app) as url, visiting(browser, url) as visit:
        visit.page.evaluate(
            """() => {
                const script = document.createElement('script');
                script.textContent = 'window.smuggled = true';
                document.body.append(script);
            }"""
        )
        assert visit.page.evaluate("window.smuggled") is None
        assert any("Content Security Policy" in line for line in visit.complaints)
