from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from qwen_captcha.fitting.errors import FittingError
from qwen_captcha.fitting.rehearsal import REHEARSAL, read_rehearsal
from tests.support.own_captchas import draw_text


def write_archive(folder: Path, labels: str) -> None:
    picture = io.BytesIO()
    draw_text("3+4").save(picture, "WEBP", lossless=True)
    with tarfile.open(folder / REHEARSAL, "w") as archive:
        for name, data in {"1.webp": picture.getvalue(), "labels.tsv": labels.encode()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_images_come_with_what_is_drawn(tmp_path: Path) -> None:
    write_archive(tmp_path, "1.webp\t3+4\n1.webp\tab\n")
    examples = read_rehearsal(tmp_path)
    assert [(one.text, one.label) for one in examples] == [("3+4", "3+4"), ("ab", "ab")]
    assert examples[0].picture.tobytes() == draw_text("3+4").tobytes()


def test_a_checkpoint_without_one_has_none(tmp_path: Path) -> None:
    assert read_rehearsal(tmp_path) == []


@pytest.mark.parametrize("labels", ["2.webp\tab\n", "1.webp\n"])
def test_wrong_labels_are_one_line(tmp_path: Path, labels: str) -> None:
    write_archive(tmp_path, labels)
    with pytest.raises(FittingError, match=f"{REHEARSAL} of {tmp_path.name} is damaged"):
        read_rehearsal(tmp_path)


def test_a_file_that_is_cut_short_is_one_line(tmp_path: Path) -> None:
    write_archive(tmp_path, "1.webp\tab\n")
    data = (tmp_path / REHEARSAL).read_bytes()
    (tmp_path / REHEARSAL).write_bytes(data[:700])
    with pytest.raises(FittingError, match="is damaged"):
        read_rehearsal(tmp_path)
