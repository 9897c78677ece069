"""Archives of labelled captchas as training reads them."""

from __future__ import annotations

import random
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.learning.real_captchas import RealCaptcha, RealCaptchas, is_archive, read_archives


def png(shade: int) -> bytes:
    stream = BytesIO()
    Image.new("RGB", (40, 20), (shade, shade, shade)).save(stream, "PNG")
    return stream.getvalue()


def write_archive(path: Path, rows: list[str]) -> Path:
    with tarfile.open(path, "w") as archive:
        files = {"labels.tsv": "\n".join(rows).encode()}
        files |= {row.split("\t")[0]: png(index) for index, row in enumerate(rows)}
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    return path


def test_archives_are_read_with_what_is_drawn(tmp_path: Path) -> None:
    rows = [
        "a.png\t5\tmath\t2 + 3 = ?",
        "b.png\txY1\talnum",
        "c.png\t77\tdigits",
        "d.png\té\talnum",
    ]
    path = write_archive(tmp_path / "one_v2.tar", rows)
    found = [*read_archives([path], held_out=True), *read_archives([path], held_out=False)]
    assert [(one.text, one.kind, one.family) for one in found] == [
        ("2+3=?", "math", "one"),
        ("xY1", "latin", "one"),
        ("77", "digits", "one"),
    ]  # the last has a character that the alphabet lacks
    assert found[1].pixels.shape == (20, 40, 3)
    assert (found[1].pixels == 1).all()


def test_one_in_sixteen_is_held_out(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "f.tar", [f"{i}.png\t{i}\tdigits" for i in range(40)])
    kept, trained = (
        [one.text for one in read_archives([path], held_out=held_out)] for held_out in (True, False)
    )
    assert kept == ["0", "16", "32"]
    assert sorted(map(int, kept + trained)) == list(range(40))


def test_a_folder_is_read_as_an_archive_is(tmp_path: Path) -> None:
    folder = tmp_path / "family"
    folder.mkdir()
    (folder / "x.png").write_bytes(png(9))
    (folder / "labels.tsv").write_text("x.png\tab\talnum\n", encoding="utf-8")
    assert is_archive(folder)
    assert not is_archive(tmp_path)
    [one] = read_archives([folder], held_out=True)
    assert (one.text, one.family) == ("ab", "family")


def test_badly_read_families_are_sampled_more_often(tmp_path: Path) -> None:
    paths = [
        write_archive(tmp_path / f"{name}.tar", [f"{i}.png\t{i}\tdigits" for i in range(3)])
        for name in ("good", "bad")
    ]
    real = RealCaptchas(read_archives(paths, held_out=False))
    assert real.families == ["bad", "good"]
    rng = random.Random(0)
    chosen = [real.choose(rng, [0.8, 0.0]).family for _ in range(600)]
    assert 0.75 < chosen.count("bad") / 600 < 0.9
    # Of a family that is never read there is little, except in a run on such families.
    chosen = [real.choose(rng, [1.0, 0.5]).family for _ in range(600)]
    assert 0.1 < chosen.count("bad") / 600 < 0.25
    chosen = [real.choose(rng, [1.0, 0.5], hardest=True).family for _ in range(600)]
    assert 0.7 < chosen.count("bad") / 600 < 0.85


def test_a_captcha_comes_back_from_memory_as_it_was() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 90, 3), np.uint8)  # no box: all is kept
    real = RealCaptchas([RealCaptcha(pixels, "ab", "latin", "one")])
    chosen = real.choose(random.Random(0), [0.5])
    assert (chosen.text, chosen.kind, chosen.family) == ("ab", "latin", "one")
    np.testing.assert_array_equal(chosen.pixels, pixels)


def test_no_captcha_is_an_error() -> None:
    with pytest.raises(ValueError, match="no captcha"):
        RealCaptchas([])


def test_large_images_are_stored_smaller(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    Image.new("RGB", (1600, 400)).save(folder / "x.png")
    (folder / "labels.tsv").write_text("x.png\tab\talnum\n", encoding="utf-8")
    [one] = read_archives([folder], held_out=True)
    assert one.pixels.shape == (100, 400, 3)
    assert one.pixels.dtype == np.uint8
