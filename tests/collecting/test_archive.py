"""The folder of collected images: what is stored, what is evicted, what feedback does."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_captcha.collecting import archive as archive_module
from qwen_captcha.collecting.archive import (
    SUFFIXES,
    CollectedAnswer,
    Feedback,
    ImageArchive,
    StoreResult,
)
from qwen_captcha.collecting.labels import Label, LabelFolder, Mark
from qwen_captcha.errors import BadRequest, UnknownRequest
from qwen_captcha.images.decode import DECODERS
from qwen_captcha.samples import IMAGE_SUFFIXES, read_families
from tests.support.fake_backend import image_bytes
from tests.support.live_server import PROJECT

MIB = 1024 * 1024


def answer(
    number: int, text: str = "a3b9", raw_response: str = "", size: int = 0
) -> CollectedAnswer:
    """Return an answer `id-NUMBER` to an image of its own, padded to a size."""
    data = image_bytes(100 + number)
    padded = data + bytes(max(0, size - len(data)))
    return CollectedAnswer(f"id-{number}", padded, text, 0.5, raw_response or text, "bundled")


def images(folder: Path) -> dict[bytes, str]:
    return {
        path.read_bytes(): path.name for path in folder.iterdir() if path.suffix in IMAGE_SUFFIXES
    }


def rows(folder: Path, table: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(folder / "collected.sqlite3") as db:
        return db.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()


@pytest.fixture
def archive(tmp_path: Path) -> ImageArchive:
    return ImageArchive(tmp_path / "new" / "folder", 3, 16 * MIB)


def record(archive: ImageArchive, *feedback: Feedback) -> list[object]:
    return [error and type(error) for error in archive.record(feedback)]


def test_an_image_is_stored_unchanged_with_private_permissions(archive: ImageArchive) -> None:
    sent = answer(1)
    assert archive.keep([sent]) == StoreResult(kept=1)
    [(data, file)] = images(archive.folder).items()
    assert data == sent.data
    [(request_id, name, text, confidence, raw_response, model, _)] = rows(archive.folder, "answers")
    assert (request_id, name, text, confidence) == ("id-1", file, "a3b9", 0.5)
    assert (raw_response, model) == ("a3b9", "bundled")
    archive.record([Feedback("id-1", correct=True)])
    assert archive.folder.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in archive.folder.iterdir()}
    assert len(modes) == 4
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize(
    ("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("TIFF", ".tiff"), ("JPEG2000", ".jp2")]
)
def test_each_type_has_its_suffix(archive: ImageArchive, kind: str, suffix: str) -> None:
    data = image_bytes(120, image_format=kind)
    archive.keep([CollectedAnswer("id", data, "a", 0.5, "a", "m")])
    [file] = images(archive.folder).values()
    assert file.endswith(suffix)


def test_every_format_that_is_read_has_a_suffix_that_is_labelled() -> None:
    assert set(SUFFIXES) == {*DECODERS, "SVG"}
    assert set(SUFFIXES.values()) <= IMAGE_SUFFIXES


def test_the_oldest_without_a_label_are_deleted_first(archive: ImageArchive) -> None:
    archive.keep([answer(1), answer(2), answer(3)])
    archive.record([Feedback("id-1", correct=True)])
    assert archive.keep([answer(4)]) == StoreResult(kept=1, removed=1)
    kept = {image_bytes(100 + number) for number in (1, 3, 4)}
    assert set(images(archive.folder)) == kept
    assert record(archive, Feedback("id-2", correct=True)) == [UnknownRequest]
    archive.record([Feedback(f"id-{number}", correct=True) for number in (3, 4)])
    assert archive.keep([answer(5)]) == StoreResult(rejected=1)
    assert set(images(archive.folder)) == kept


def test_an_image_that_is_sent_again_is_stored_once_with_the_new_time(
    archive: ImageArchive,
) -> None:
    archive.keep([answer(1), answer(2), answer(3)])
    again = answer(1)
    archive.keep([CollectedAnswer("id-again", again.data, "a3b9", 0.5, "a3b9", "m")])
    assert len(images(archive.folder)) == 3
    archive.keep([answer(4)])
    assert again.data in images(archive.folder)
    assert image_bytes(102) not in images(archive.folder)
    ids = ["id-1", "id-again"]
    assert record(archive, *(Feedback(one, correct=True) for one in ids)) == [None, None]


def test_a_repeated_image_takes_no_space(archive: ImageArchive) -> None:
    data = answer(1).data
    archive.keep([CollectedAnswer(f"{n}", data, "a", 0.5, "a", "m") for n in range(40)])
    assert [row[0] for row in rows(archive.folder, "answers")] == [f"{n}" for n in range(24, 40)]


def test_bytes_are_limited_with_the_database(tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, 1000, MIB)
    for number in range(30):
        archive.keep([answer(number, size=100_000)])
        used = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert used <= MIB
    assert len(images(tmp_path)) == 9
    assert archive.keep([answer(99, size=MIB)]) == StoreResult(rejected=1)
    assert len(images(tmp_path)) == 9


@pytest.mark.parametrize(
    ("said", "feedback", "label"),
    [
        (("a3b9", "a3b9"), Feedback("id-1", correct=True), Label("a3b9")),
        (("a3b9", "a3B9"), Feedback("id-1", correct=True), Label("a3B9")),
        (("a3b9", "a3b9"), Feedback("id-1", correct=True, text="a3b9"), Label("a3b9")),
        (("14", "8+6=?"), Feedback("id-1", correct=True), Label("14", "math", "8+6=?")),
        (("a3b9", "a3b9"), Feedback("id-1", correct=False, text=" x7 "), Label("x7")),
        (("", "???"), Feedback("id-1", correct=False, text="x7"), Label("x7")),
    ],
    ids=["right", "in its case", "right with text", "arithmetic", "corrected", "no answer"],
)
def test_feedback_makes_a_label(
    archive: ImageArchive, said: tuple[str, str], feedback: Feedback, label: Label
) -> None:
    archive.keep([answer(1, *said)])
    assert record(archive, feedback) == [None]
    [file] = images(archive.folder).values()
    assert LabelFolder(archive.folder).read().labels == {file: label}
    [family] = read_families(archive.folder)
    assert [sample.label for sample in family.samples] == [label.text]


def test_a_wrong_answer_is_marked_and_later_feedback_replaces_it(archive: ImageArchive) -> None:
    archive.keep([answer(1)])
    [file] = images(archive.folder).values()
    labels = LabelFolder(archive.folder)
    archive.record([Feedback("id-1", correct=True)])
    archive.record([Feedback("id-1", correct=False)])
    assert (labels.read().labels, labels.read().marks) == ({}, {file: Mark.WRONG})
    archive.record([Feedback("id-1", correct=False, text="right")])
    # Any mark other than "wrong" stays.
    archive.record([Feedback("id-1", correct=False)])
    assert labels.read().labels == {file: Label("right")}
    with labels.change() as change:
        change.set_mark(file, Mark.UNREADABLE)
    archive.record([Feedback("id-1", correct=False)])
    assert labels.read().marks == {file: Mark.UNREADABLE}


@pytest.mark.parametrize(
    ("text", "feedback", "error"),
    [
        ("a", Feedback("id-2", correct=True), UnknownRequest),
        ("", Feedback("id-1", correct=True), BadRequest),
        ("a", Feedback("id-1", correct=True, text="b"), BadRequest),
        ("a", Feedback("id-1", correct=False, text="a"), BadRequest),
        ("a", Feedback("id-1", correct=False, text="b\tc"), BadRequest),
        ("a", Feedback("id-1", correct=False, text="x" * 65), BadRequest),
    ],
)
def test_contradictory_feedback_changes_nothing(
    archive: ImageArchive, text: str, feedback: Feedback, error: type[Exception]
) -> None:
    archive.keep([answer(1, text, "?"), answer(3)])
    assert record(archive, feedback, Feedback("id-3", correct=True)) == [error, None]
    assert [label.text for label in LabelFolder(archive.folder).read().labels.values()] == ["a3b9"]


def test_an_id_that_is_used_again_is_of_the_last_image(archive: ImageArchive) -> None:
    first, second = answer(1), answer(2)
    archive.keep([CollectedAnswer("same", one.data, "a", 0.5, "a", "m") for one in (first, second)])
    archive.record([Feedback("same", correct=True)])
    assert set(LabelFolder(archive.folder).read().labels) == {images(archive.folder)[second.data]}


def test_a_failed_write_leaves_no_file(
    archive: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.keep([answer(1)])
    replace_file = archive_module.replace_file

    def no_space(path: Path, data: bytes) -> None:
        if data == answer(3).data:
            raise OSError(28, "No space left on device")
        replace_file(path, data)

    monkeypatch.setattr(archive_module, "replace_file", no_space)
    with pytest.raises(OSError, match="No space"):
        archive.keep([answer(2), answer(3)])
    assert len(images(archive.folder)) == len(rows(archive.folder, "images")) == 1
    monkeypatch.undo()
    archive.keep([answer(2), answer(3)])
    assert len(images(archive.folder)) == 3


def test_an_image_that_a_failed_write_evicted_is_stored_again(
    archive: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.keep([answer(1), answer(2), answer(3)])

    def no_space(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive_module, "replace_file", no_space)
    with pytest.raises(OSError, match="No space"):
        archive.keep([answer(4)])
    assert answer(1).data not in images(archive.folder)
    monkeypatch.undo()
    archive.keep([answer(1)])
    assert answer(1).data in images(archive.folder)
    assert record(archive, Feedback("id-1", correct=True)) == [None]


def test_deleted_files_and_leftovers_of_a_killed_process_are_detected(tmp_path: Path) -> None:
    archive = ImageArchive(tmp_path, 3, MIB)
    archive.keep([answer(1), answer(2)])
    (tmp_path / images(tmp_path)[answer(1).data]).unlink()
    assert record(archive, Feedback("id-1", correct=True)) == [UnknownRequest]
    (tmp_path / f"{'0' * 32}.png").write_bytes(image_bytes(300))
    (tmp_path / ".abc.tmp").touch()
    (tmp_path / "mine.png").write_bytes(image_bytes(301))
    ImageArchive(tmp_path, 3, MIB)
    assert set(images(tmp_path)) == {answer(2).data, image_bytes(301)}
    assert not (tmp_path / ".abc.tmp").exists()
    assert [row[0] for row in rows(tmp_path, "answers")] == ["id-2"]


@pytest.mark.live
def test_the_limit_holds_for_all_processes_of_a_folder(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from qwen_captcha.collecting.archive import CollectedAnswer, ImageArchive, Feedback
name = sys.argv[2]
archive = ImageArchive(Path(sys.argv[1]), 10, 2**20)
labelled = False
for number in range(15):
    id_ = f"{name}{number}"
    archive.keep([CollectedAnswer(id_, b"BM" + id_.encode(), "a", 0.5, "a", "m")])
    if not labelled:  # another process may have evicted the image already
        labelled = archive.record([Feedback(id_, True)]) == [None]
assert labelled
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name], cwd=PROJECT)
        for name in "abc"
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    assert len(images(tmp_path)) == len(rows(tmp_path, "images")) == 10
    labelled = LabelFolder(tmp_path).read().labels
    assert len(labelled) == 3
    assert set(labelled) <= set(images(tmp_path).values())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission denied"):
        ImageArchive(tmp_path, 3, MIB)
