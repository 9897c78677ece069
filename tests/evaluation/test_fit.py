from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from evaluation import fit as command
from evaluation.fit import Reading, Row, draw, line, means, split
from qwen_captcha.fitting.card import Card, Score
from qwen_captcha.samples import read_families
from tests.support.checkpoints import PIXEL_RANGE, write_small_checkpoint
from tests.support.own_captchas import write_captchas

pytestmark = pytest.mark.live

FACTS = {"follows_prompts": False, "answers_questions": False, "pixel_range": list(PIXEL_RANGE)}


def row(family: str, images: int, after: float) -> Row:
    others = Reading(0.75, 0.1)
    return Row(family, images, Reading(0.25, 0.2), Reading(after, 0.04), others, others, 100, 240.0)


def test_a_line_has_before_and_after() -> None:
    assert line(row("shop", 40, 0.9)) == (
        "shop                           40  0.25 → 0.90  ECE 0.20 → 0.04"
        "  others 0.750 → 0.750  100 steps, 240 s"
    )


def test_means_are_over_families_of_one_number_of_images() -> None:
    rows = [row("a", 20, 0.5), row("b", 20, 0.7), row("a", 40, 0.9)]
    assert [(one.family, one.images, one.after.right) for one in means(rows)] == [
        ("mean of 2", 20, pytest.approx(0.6)),
        ("mean of 1", 40, 0.9),
    ]


def test_training_images_are_not_test_images(tmp_path: Path) -> None:
    [family] = read_families(write_captchas(tmp_path / "shop", 30))
    few, rest = split(family, 10)
    more, _ = split(family, 20)
    assert len(few) == 10
    assert sorted(s.path for s in (*few, *rest)) == sorted(s.path for s in family.samples)
    assert more[:10] == few


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_curve_is_drawn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"curve{suffix}"
    draw([row("a", 20, 0.5), row("a", 40, 0.9), row("b", 40, 0.7)], path)
    assert path.stat().st_size > 1000


def test_the_command_fits_to_each_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the training itself, which has tests of its own."""
    base = write_small_checkpoint(tmp_path / "base", FACTS)
    families = tmp_path / "families"
    for name in ("shop", "bank"):
        folder = write_captchas(families / name, 6)
        names = sorted(path.name for path in folder.iterdir())
        labels = "".join(f"{file}\t{file[:4]}\n" for file in names)
        (folder / "labels.tsv").write_text(labels, encoding="utf-8")
    fitted_to: list[int] = []

    def fit(samples: list[object], request: command.Request, **_: object) -> Card:
        fitted_to.append(len(samples))
        write_small_checkpoint(request.out, FACTS)
        none = Score(0, 0)
        return Card("x", "base", 3, 0, "", 0.5, 7, none, none, none, none, 0.5, None)

    monkeypatch.setattr(command, "fit", fit)
    report = tmp_path / "report.json"
    arguments = ["fit", str(families), "--base", str(base), "--images", "4", "--json", str(report)]
    monkeypatch.setattr(sys, "argv", arguments)
    command.main()
    assert fitted_to == [4, 4]
    printed = capsys.readouterr().out.splitlines()
    assert [text.split()[0] for text in printed] == ["bank", "shop", "mean"]
    rows = json.loads(report.read_text(encoding="utf-8"))
    assert [(one["family"], one["images"], one["steps"]) for one in rows] == [
        ("bank", 4, 7),
        ("shop", 4, 7),
    ]


def test_a_folder_without_captchas_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["fit", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="none is not a folder"):
        command.main()
