import json
from pathlib import Path

import pytest

from training.curves import draw_curves, read_log


def write_log(folder: Path, images: list[int]) -> Path:
    path = folder / "log.jsonl"
    rows = [{"images": n, "level": 1, "loss": 2.0, "glyph": 1.0, "digits": 0.5} for n in images]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_that_a_restart_repeats_are_dropped(tmp_path: Path) -> None:
    rows = read_log(write_log(tmp_path, [100, 200, 300, 200, 250]))
    assert [row["images"] for row in rows] == [100, 200, 250]


def test_an_empty_log_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        read_log(write_log(tmp_path, []))


def test_only_what_was_logged_is_drawn(tmp_path: Path) -> None:
    losses, matches, pace = draw_curves(read_log(write_log(tmp_path, [100, 200]))).axes
    assert [line.get_label() for line in losses.lines] == ["loss", "glyph"]
    assert [line.get_label() for line in matches.lines] == ["digits"]
    assert list(pace.lines[0].get_xdata()) == [0.1, 0.2]
