"""A labelling session without its page: its images, what is written, what is guessed."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from qwen_captcha.collecting import files
from qwen_captcha.collecting.labels import Label, LabelsError, Mark
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.labelling.session import Guess, LabelSession, Picture, Progress
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings, load_settings
from tests.support.fake_backend import FakeBackend, ServiceFactory, image_bytes

SETTINGS = load_settings({})
Opener = Callable[..., LabelSession]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "captchas"
    folder.mkdir()
    for width in (101, 102, 103):
        (folder / f"{width}.png").write_bytes(image_bytes(width))
    return folder


@pytest.fixture
def open_session(start_service: ServiceFactory, backend: FakeBackend) -> Opener:
    """Open a folder with a model that reads an image as its width."""

    def open_(folder: Path, settings: Settings = SETTINGS) -> LabelSession:
        return LabelSession(folder, settings, lambda _: start_service(backend))

    return open_


def test_the_images_of_the_folder_alone_are_labelled(folder: Path, open_session: Opener) -> None:
    for name in ("notes.txt", ".hidden.png", "tab\there.png", "x.PNG"):
        (folder / name).write_bytes(image_bytes())
    (folder / "below").mkdir()
    (folder / "below" / "1.png").write_bytes(image_bytes())
    (folder / "folder.png").mkdir()
    session = open_session(folder)
    assert session.files == ("101.png", "102.png", "103.png", "x.PNG")
    assert session.picture("101.png") == Picture(image_bytes(101), "image/png")
    for name in ("notes.txt", "below/1.png", "../captchas/101.png", "/etc/passwd", ""):
        assert session.picture(name) is None
        with pytest.raises(KeyError):
            session.set_label(name, "a")
        with pytest.raises(KeyError):
            session.set_mark(name, Mark.SKIPPED)


@pytest.mark.parametrize(("suffix", "kind"), [("tif", "TIFF"), ("ppm", "PPM"), ("jp2", "JPEG2000")])
def test_a_format_that_no_browser_shows_is_sent_as_png(
    tmp_path: Path, open_session: Opener, suffix: str, kind: str
) -> None:
    (tmp_path / f"1.{suffix}").write_bytes(image_bytes(120, image_format=kind))
    picture = open_session(tmp_path).picture(f"1.{suffix}")
    assert picture is not None
    assert picture.media_type == "image/png"
    assert Image.open(io.BytesIO(picture.data)).size == (120, 40)


def test_an_svg_is_sent_as_a_picture_and_never_as_a_document(
    tmp_path: Path, open_session: Opener
) -> None:
    (tmp_path / "1.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="120" height="40">'
        '<path d="M10 10L90 30" stroke="black"/></svg>'
    )
    picture = open_session(tmp_path).picture("1.svg")
    assert picture is not None
    assert (picture.media_type, picture.data[:4]) == ("image/png", b"\x89PNG")


def test_each_label_is_on_disk_at_once(folder: Path, open_session: Opener) -> None:
    session = open_session(folder)
    session.set_label("102.png", " a3b9 ")
    assert (folder / "labels.tsv").read_text() == "102.png\ta3b9\n"
    session.set_mark("103.png", Mark.UNREADABLE)
    assert (folder / "marks.tsv").read_text() == "103.png\tunreadable\n"
    session.set_label("103.png", "b")
    assert (folder / "labels.tsv").read_text() == "102.png\ta3b9\n103.png\tb\n"
    assert (folder / "marks.tsv").read_text() == ""
    assert session.progress() == open_session(folder).progress() == Progress(3, 2)


def test_an_image_that_has_gone_gets_no_label(folder: Path, open_session: Opener) -> None:
    session = open_session(folder)
    (folder / "101.png").unlink()
    with pytest.raises(KeyError):
        session.set_label("101.png", "a")
    with pytest.raises(KeyError):
        session.set_mark("101.png", Mark.SKIPPED)
    assert not (folder / "labels.tsv").exists()
    assert not (folder / "marks.tsv").exists()


def test_a_label_that_is_accepted_again_keeps_its_columns(
    folder: Path, open_session: Opener
) -> None:
    row = "101.png\t14\tmath\t8+6=?\n"
    (folder / "labels.tsv").write_text(row)
    session = open_session(folder)
    session.set_label("101.png", "14")
    assert (folder / "labels.tsv").read_text() == row
    session.set_label("101.png", "15")
    assert session.labels().labels == {"101.png": Label("15")}


def test_an_accepted_arithmetic_guess_stores_the_expression(
    folder: Path, open_session: Opener, backend: FakeBackend
) -> None:
    backend.respond = lambda task: "8+6=?"
    session = open_session(folder)
    session.guess_all()
    session.set_label("101.png", "14")
    session.set_label("102.png", "13")
    assert session.labels().labels == {
        "101.png": Label("14", "math", "8+6=?"),
        "102.png": Label("13"),
    }


def test_undecodable_images_are_reported_before_the_model_is_loaded(folder: Path) -> None:
    (folder / "000.png").write_bytes(b"no image")
    found = []

    def load(settings: Settings) -> CaptchaService:
        found.extend(session.guesses(0)[0])
        raise ModelLoadError("There is no\nsuch model.")

    session = LabelSession(folder, SETTINGS, load)
    session.guess_all()
    assert [guess.file for guess in found] == ["000.png"]
    assert "not an image" in found[0].error
    assert session.guesses(1) == ([], True, "There is no such model.")


def test_images_without_a_label_are_read_with_rejected_answers_first(
    folder: Path, open_session: Opener, backend: FakeBackend
) -> None:
    (folder / "labels.tsv").write_text("101.png\ta\n")
    (folder / "marks.tsv").write_text("103.png\twrong\n102.png\tskipped\n")
    session = open_session(folder)
    assert session.guesses(0) == ([], False, "")
    session.guess_all()
    guesses, finished, failure = session.guesses(0)
    assert [(guess.file, guess.text) for guess in guesses] == [
        ("103.png", "w103"),
        ("102.png", "w102"),
    ]
    assert all(0 < guess.confidence < 1 for guess in guesses)
    assert (finished, failure) == (True, "")
    assert session.guesses(1)[0] == guesses[1:]


def test_an_image_without_text_has_an_empty_guess(
    folder: Path, open_session: Opener, backend: FakeBackend
) -> None:
    backend.respond = lambda task: ""
    session = open_session(folder)
    session.guess_all()
    assert session.guesses(0)[0] == [Guess(f"{width}.png") for width in (101, 102, 103)]


def test_a_short_queue_limit_is_applied(folder: Path, open_session: Opener) -> None:
    settings = load_settings({"MAX_QUEUE_SIZE": "1", "MAX_BATCH_IMAGES": "1"})
    session = open_session(folder, settings)
    session.guess_all()
    assert len(session.guesses(0)[0]) == 3


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda folder: None, "has no images"),
        (lambda folder: folder.rmdir(), "No such file or directory"),
        (lambda folder: (folder.rmdir(), folder.write_text("x")), "Not a directory"),
        (
            lambda folder: ((folder / "1.png").touch(), (folder / "labels.tsv").write_text("x\n")),
            "line 1",
        ),
    ],
    ids=["empty", "missing", "a file", "malformed labels"],
)
def test_a_folder_that_cannot_be_labelled_is_one_line(
    tmp_path: Path, open_session: Opener, prepare: Callable[[Path], object], reason: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(LabelsError, match=reason) as refused:
        open_session(folder)
    assert "\n" not in str(refused.value)


def test_a_full_disk_is_an_error_and_what_was_labelled_stays(
    folder: Path, open_session: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(folder)
    session.set_label("101.png", "a")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        session.set_label("102.png", "b")
    assert session.labels().labels == {"101.png": Label("a")}
