"""The label page in a browser: a hundred images by keyboard, and what else a person meets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect

from qwen_captcha.collecting.labels import LabelFolder, Mark
from qwen_captcha.labelling.page import WEB, create_label_app
from qwen_captcha.labelling.session import LabelSession
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import FakeBackend, ServiceFactory, image_bytes
from tests.support.page_server import CHROMIUM, Visit, chromium, served, visiting

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium"),
]

TOKEN = "the-token"
FIT = "qwen-captcha fit captchas --out MODEL"
Opener = Callable[..., Visit]


class UnsureBackend(FakeBackend):
    """Is the less sure of an image the wider it is."""

    def read(self, tasks: Sequence[Any]) -> list[Any]:
        return [
            replace(reading, log_probability=-task.image.width / 1000)
            for task, reading in zip(tasks, super().read(tasks), strict=True)
        ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def backend() -> Iterator[FakeBackend]:
    backend = UnsureBackend()
    yield backend
    backend.release()


@pytest.fixture
def sessions() -> dict[Path, LabelSession]:
    """Return the session of each folder whose page is open."""
    return {}


@pytest.fixture
def open_page(
    browser: Browser,
    start_service: ServiceFactory,
    backend: FakeBackend,
    sessions: dict[Path, LabelSession],
) -> Iterator[Opener]:
    """Open the label page of a folder, with the model's guesses or before they come."""
    with ExitStack() as stack:
        visits: list[Visit] = []

        def open_(folder: Path, *, guesses: bool = True, **how: object) -> Visit:
            session = LabelSession(folder, load_settings({}), lambda _: start_service(backend))
            sessions[folder] = session
            addresses: set[str] = set()
            url = stack.enter_context(served(create_label_app(session, TOKEN, addresses, FIT)))
            addresses.add(url.removeprefix("http://"))
            if guesses:
                session.guess_all()
            visits.append(stack.enter_context(visiting(browser, url, f"/{TOKEN}/", **how)))
            expect(visits[-1].page.locator("#label")).to_be_focused()
            return visits[-1]

        yield open_
        for visit in visits:
            failures = "Failed to load resource"
            assert [line for line in visit.complaints if failures not in line] == []
            assert [entry.url for entry in visit.requests if visit.url not in entry.url] == []


def folder_of(path: Path, *widths: int) -> Path:
    for width in widths:
        (path / f"{width}.png").write_bytes(image_bytes(width))
    return path


def intercept_labels(page: Page, handler: Callable[[Route], None]) -> None:
    """Let a handler answer what the page sends, and load the page again.

    Chromium intercepts the requests of a page for certain only if it was told so before loading.
    """
    page.route("**/labels", handler)
    page.reload()
    expect(page.locator("#label")).to_be_focused()


def accept(page: Page, typed: str | None = None) -> None:
    """Accept a label as a person does, and wait until it is written."""
    with page.expect_response("**/labels"):
        if typed is not None:
            page.keyboard.type(typed)
        page.keyboard.press("Enter")


def test_a_hundred_images_by_keyboard_alone(open_page: Opener, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *range(101, 201))
    page = open_page(folder).page
    # The least sure first.
    for width in range(200, 100, -1):
        expect(page.locator("#file")).to_have_text(f"{width}.png")
        expect(page.locator("#label")).to_have_value(f"w{width}")
        with page.expect_response("**/labels"):
            if width % 10 == 0:
                page.keyboard.press("Control+Enter")
            elif width % 10 == 1:
                page.keyboard.press("ArrowDown")
            elif width % 10 == 2:
                page.keyboard.type(f"typed{width}")
                page.keyboard.press("Enter")
            else:
                page.keyboard.press("Enter")
    expect(page.locator("#end-title")).to_be_visible()
    written = LabelFolder(folder).read()
    assert {file: label.text for file, label in written.labels.items()} == {
        f"{width}.png": f"typed{width}" if width % 10 == 2 else f"w{width}"
        for width in range(101, 201)
        if width % 10 not in (0, 1)
    }
    assert list(written.marks.values()).count(Mark.UNREADABLE) == 10
    assert list(written.marks.values()).count(Mark.SKIPPED) == 10
    counts = "80 of 100 labelled, 0 left, 10 skipped, 10 unreadable"
    expect(page.locator("#counts")).to_have_text(counts)
    # Those that were skipped come again.
    expect(page.get_by_role("button", name="Go through the skipped ones (10)")).to_be_focused()
    page.keyboard.press("Enter")
    for width in range(191, 100, -10):
        expect(page.locator("#file")).to_have_text(f"{width}.png")
        accept(page)
    expect(page.locator("#counts")).to_have_text(
        "90 of 100 labelled, 0 left, 0 skipped, 10 unreadable"
    )
    expect(page.locator("#end")).to_contain_text(FIT)
    assert len(LabelFolder(folder).read().labels) == 90


def test_labelling_resumes_after_a_reload(open_page: Opener, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 101, 102, 103)
    page = open_page(folder).page
    accept(page, "one")
    page.reload()
    expect(page.locator("#counts")).to_have_text("1 of 3 labelled, 2 left")
    expect(page.locator("#file")).to_have_text("102.png")
    page = open_page(folder).page
    expect(page.locator("#counts")).to_have_text("1 of 3 labelled, 2 left")


def test_back_shows_the_saved_label_and_corrects_it(open_page: Opener, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 101, 102)
    page = open_page(folder).page
    expect(page.locator("#back")).to_be_disabled()
    accept(page, "wrong")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#label")).to_have_value("wrong")
    expect(page.locator("#remark")).to_have_text("Labelled.")
    # What has a label keeps it when it is skipped.
    page.keyboard.press("ArrowDown")
    expect(page.locator("#file")).to_have_text("101.png")
    page.keyboard.press("ArrowUp")
    accept(page, "right")
    assert LabelFolder(folder).read().labels["102.png"].text == "right"
    accept(page)
    expect(page.locator("#end-title")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#label")).to_have_value("w101")


def test_typed_text_is_not_replaced_by_the_guess(
    open_page: Opener, sessions: dict[Path, LabelSession], tmp_path: Path
) -> None:
    page = open_page(folder_of(tmp_path, 101, 102), guesses=False).page
    expect(page.locator("#guessing")).to_contain_text("is being loaded")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("Type what you see")
    page.keyboard.type("mine")
    sessions[tmp_path].guess_all()
    expect(page.locator("#guess")).to_have_text("The model's guess: w101, 90 % sure.")
    expect(page.locator("#label")).to_have_value("mine")
    expect(page.locator("#guessing")).to_have_text("The model has read all.")
    accept(page)
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#label")).to_have_value("w102")


def test_an_empty_field_takes_the_guess(
    open_page: Opener, sessions: dict[Path, LabelSession], tmp_path: Path
) -> None:
    page = open_page(folder_of(tmp_path, 101), guesses=False).page
    expect(page.locator("#guess")).to_have_text("No guess yet.")
    sessions[tmp_path].guess_all()
    expect(page.locator("#label")).to_have_value("w101")


def test_files_that_cannot_be_read_are_listed_and_skipped(
    open_page: Opener, tmp_path: Path
) -> None:
    (tmp_path / "0.png").write_text("no image")
    page = open_page(folder_of(tmp_path, 101)).page
    expect(page.locator("#file")).to_have_text("101.png")
    expect(page.locator("#counts")).to_have_text("0 of 1 labelled, 1 left")
    page.get_by_text("Files that cannot be read (1)").click()
    expect(page.locator("#broken-files")).to_contain_text("0.png: The data is not an image")


def test_an_answer_with_negative_feedback_comes_first(open_page: Opener, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 101, 102, 103)
    (folder / "marks.tsv").write_text("101.png\twrong\n")
    page = open_page(folder).page
    expect(page.locator("#file")).to_have_text("101.png")
    expect(page.locator("#remark")).to_have_text("A site refused the answer.")


def test_an_image_whose_label_cannot_be_saved_is_shown_again(
    open_page: Opener, tmp_path: Path
) -> None:
    folder = folder_of(tmp_path, 101, 102)
    page = open_page(folder).page
    error = '{"error":"The label cannot be written: No space left on device."}'

    def refuse(route: Route) -> None:
        route.fulfill(status=500, content_type="application/json", body=error)

    intercept_labels(page, refuse)
    page.keyboard.type("mine")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("No space left on device")
    expect(page.locator("#file")).to_have_text("102.png")
    expect(page.locator("#label")).to_have_value("mine")
    expect(page.locator("#counts")).to_have_text("0 of 2 labelled, 2 left")
    page.unroute("**/labels")
    accept(page)
    assert LabelFolder(folder).read().labels["102.png"].text == "mine"


def test_an_image_that_has_gone_is_left_out(open_page: Opener, tmp_path: Path) -> None:
    page = open_page(folder_of(tmp_path, 101, 102)).page
    (tmp_path / "102.png").unlink()
    accept(page)
    expect(page.get_by_role("alert")).to_contain_text("The folder has no such image")
    expect(page.locator("#file")).to_have_text("101.png")
    expect(page.locator("#counts")).to_have_text("0 of 1 labelled, 1 left")


def test_a_command_that_has_ended_is_reported(open_page: Opener, tmp_path: Path) -> None:
    page = open_page(folder_of(tmp_path, 101, 102)).page
    intercept_labels(page, lambda route: route.abort())
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("has lost its command")


def test_keys_of_an_input_method_are_not_handled(open_page: Opener, tmp_path: Path) -> None:
    page = open_page(folder_of(tmp_path, 101, 102)).page
    expect(page.locator("#file")).to_have_text("102.png")
    for key in ("ArrowDown", "ArrowUp", "Enter"):
        page.locator("#label").dispatch_event("keydown", {"key": key, "isComposing": True})
    expect(page.locator("#file")).to_have_text("102.png")
    page.locator("#label").dispatch_event("keydown", {"key": "ArrowDown", "isComposing": False})
    expect(page.locator("#file")).to_have_text("101.png")


def test_the_page_is_in_chinese_for_a_chinese_browser(open_page: Opener, tmp_path: Path) -> None:
    page = open_page(folder_of(tmp_path, 101, 102), language="zh-CN").page
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator("#guess")).to_have_text("模型猜测：w102，置信度 90 %。")
    page.locator("#label").fill("手写")
    page.get_by_role("button", name="English").click()
    expect(page.locator("#guess")).to_have_text("The model's guess: w102, 90 % sure.")
    expect(page.locator("#label")).to_have_value("手写")


def test_both_languages_have_every_word_of_the_page(open_page: Opener, tmp_path: Path) -> None:
    page = open_page(folder_of(tmp_path, 101)).page
    languages = page.evaluate("import('./assets/words.js').then((module) => module.LANGUAGES)")
    assert set(languages) == {"en", "zh"}
    assert set(languages["en"]) == set(languages["zh"])
    html = (WEB / "label.html").read_text(encoding="utf-8")
    named = re.findall(r'data-text="(\w+)"[^>]*>([^<]*)', html)
    assert len(named) > 7
    assert [(name, languages["en"][name]) for name, _ in named] == named
    script = (WEB / "assets" / "label.js").read_text(encoding="utf-8")
    said = set(re.findall(r'say\("(\w+)"', script))
    assert len(said) > 15
    assert said <= set(languages["en"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(open_page: Opener, tmp_path: Path, scheme: str) -> None:
    (tmp_path / "0.png").write_text("no image")
    (tmp_path / "marks.tsv").write_text("101.png\twrong\n")
    page = open_page(folder_of(tmp_path, 101)).page
    page.emulate_media(color_scheme=scheme)
    expect(page.locator("#remark")).not_to_be_empty()
    check(page)
    accept(page)
    expect(page.locator("#end")).to_be_visible()
    check(page)


def check(page: Page) -> None:
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    assert len(results.response["passes"]) > 15


def test_a_phone_needs_no_scrolling_to_the_side(open_page: Opener, tmp_path: Path) -> None:
    name = "a-name-that-is-long-and-has-no-space-at-all-in-it.png"
    (tmp_path / name).write_bytes(image_bytes(900))
    page = open_page(tmp_path, viewport={"width": 360, "height": 640}).page
    expect(page.locator("#file")).to_have_text(name)
    scrolled, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert scrolled <= seen
