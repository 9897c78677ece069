"""Labels on disk: nothing is lost, nothing is half written, whatever else writes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_captcha.collecting import files
from qwen_captcha.collecting.files import replace_file
from qwen_captcha.collecting.labels import (
    Label,
    LabelFolder,
    Labels,
    LabelsError,
    Mark,
    label_text,
)
from tests.support.live_server import PROJECT

ROWS = "1.png\ta3b9\n2.png\t14\tmath\t8+6=?\n"


def test_rows_of_all_lengths_round_trip(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text(ROWS)
    folder = LabelFolder(tmp_path)
    assert folder.read().labels == {"1.png": Label("a3b9"), "2.png": Label("14", "math", "8+6=?")}
    with folder.change() as labels:
        labels.set_label("3 ü.png", Label("验证码", "chinese"))
        labels.set_mark("4.png", Mark.UNREADABLE)
    written = (tmp_path / "labels.tsv").read_text(encoding="utf-8")
    assert written == ROWS + "3 ü.png\t验证码\tchinese\n"
    assert (tmp_path / "marks.tsv").read_text() == "4.png\tunreadable\n"


def test_an_image_has_a_label_or_a_mark(tmp_path: Path) -> None:
    folder = LabelFolder(tmp_path)
    with folder.change() as labels:
        labels.set_mark("1.png", Mark.SKIPPED)
    with folder.change() as labels:
        labels.set_label("1.png", Label("a"))
    assert folder.read() == Labels({"1.png": Label("a")}, {})
    with folder.change() as labels:
        labels.set_mark("1.png", Mark.WRONG)
    assert folder.read() == Labels({}, {"1.png": Mark.WRONG})


def test_a_label_counts_where_the_writer_ended_before_the_mark_went(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("1.png\ta\n")
    (tmp_path / "marks.tsv").write_text("1.png\tskipped\n")
    assert LabelFolder(tmp_path).read() == Labels({"1.png": Label("a")}, {})


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("labels.tsv", "1.png\n", "line 1: it has 1 cells"),
        ("labels.tsv", "1.png\ta\n\n2.png\ta\tb\tc\td\n", "line 3: it has 5 cells"),
        ("labels.tsv", "1.png\t\n", "without a label"),
        ("labels.tsv", b"1.png\t\xff\n", "not UTF-8"),
        ("marks.tsv", "1.png\tlost\n", "'lost' is none of wrong, skipped, unreadable"),
    ],
)
def test_a_malformed_file_is_one_line_and_stays_as_it_is(
    tmp_path: Path, name: str, text: str | bytes, reason: str
) -> None:
    data = text.encode() if isinstance(text, str) else text
    (tmp_path / name).write_bytes(data)
    with pytest.raises(LabelsError, match=reason), LabelFolder(tmp_path).change():
        pass
    assert (tmp_path / name).read_bytes() == data


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_bytes(b"\xef\xbb\xbf1.png\ta\r\n2.png\tb\r\n")
    assert LabelFolder(tmp_path).read().labels == {"1.png": Label("a"), "2.png": Label("b")}


def test_a_new_file_is_private_and_a_replaced_one_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    replace_file(path, b"one")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    replace_file(path, b"two")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o644)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "labels.tsv").write_text(ROWS)

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"), LabelFolder(tmp_path).change() as labels:
        labels.set_label("1.png", Label("other"))
    assert (tmp_path / "labels.tsv").read_text() == ROWS
    assert [path.name for path in tmp_path.glob(".*.tmp")] == []


@pytest.mark.live
def test_processes_that_write_at_once_lose_no_label(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from qwen_captcha.collecting.labels import Label, LabelFolder
folder = LabelFolder(Path(sys.argv[1]))
for number in range(25):
    with folder.change() as labels:
        labels.set_label(f"{sys.argv[2]}-{number}.png", Label("x"))
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), name], cwd=PROJECT)
        for name in "abc"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(LabelFolder(tmp_path).read().labels) == 75


@pytest.mark.parametrize(
    ("typed", "label"),
    [(" a3b9 ", "a3b9"), ("é", "é"), ("3 + 4", "3 + 4"), ("x" * 64, "x" * 64)],
)
def test_a_typed_text_becomes_a_label(typed: str, label: str) -> None:
    assert label_text(typed) == label


@pytest.mark.parametrize(
    ("typed", "reason"),
    [("", "empty"), (" \t", "empty"), ("a\tb", "control"), ("a\nb", "control"),
     ("a\u2028b", "control"), ("x" * 65, "65 characters")],
)  # fmt: skip
def test_an_invalid_label_is_reported(typed: str, reason: str) -> None:
    with pytest.raises(LabelsError, match=reason):
        label_text(typed)
