from __future__ import annotations

import pytest

from evaluation.accuracy.comparison import PairedComparison, compare
from evaluation.accuracy.predictions import ScoredFamilies
from evaluation.accuracy.summary import summarise
from evaluation.accuracy.table import (
    aligned,
    p_value,
    render,
    share,
)
from evaluation.services.client import Answer
from tests.support.readings import (
    NOTHING_READ,
    answered,
    family_of,
    scored,
)

DIGITS = family_of("plain_digits", "digits", *["12"] * 4, baseline=0.5, tune=True)
MINE = family_of("mine", "alnum", *["12"] * 16, case_sensitive=True)


def readings(right_of_mine: int, answer: Answer) -> ScoredFamilies:
    return [
        scored(DIGITS, *[answer] * 4, latency_s=0.0314),
        scored(
            MINE,
            *[answer] * right_of_mine,
            *[NOTHING_READ] * (16 - right_of_mine),
            latency_s=0.0314,
        ),
    ]


def test_the_table_as_a_terminal_shows_it() -> None:
    assert render(summarise(readings(4, answered("12", 0.9)))) == (
        """\
                     n  right   95% interval  exact  caseless    CER    ECE  AUROC    ms  none  ddddocr, known    diff
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
digits
  plain_digits       4  1.000  0.510 – 1.000  1.000     1.000  0.000  0.100      –  31.4     –           0.500  +0.500
  mean (1)           4  1.000  0.510 – 1.000  1.000     1.000  0.000  0.100      –  31.4     –           0.500  +0.500
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
alnum
  mine *            16  0.250  0.102 – 0.495  0.250     0.250  0.750  0.025  1.000  31.4    12
  mean (1)          16  0.250  0.102 – 0.495  0.250     0.250  0.750  0.025  1.000  31.4    12
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
digits + Latin (2)  20  0.625  0.362 – 0.831  0.625     0.625  0.600  0.040  1.000  31.4    12
all families (2)    20  0.625  0.362 – 0.831  0.625     0.625  0.600  0.040  1.000  31.4    12
tune half (1)        4  1.000  0.510 – 1.000  1.000     1.000  0.000  0.100      –  31.4     –           0.500  +0.500

min_confidence  answered  right of them   read
──────────────────────────────────────────────
0.00               0.400          1.000  0.400
0.50               0.400          1.000  0.400
0.80               0.400          1.000  0.400
0.90               0.400          1.000  0.400
0.95               0.000              –  0.000
0.99               0.000              –  0.000

answered at 99% accuracy 0.400, at 95% 0.400
no answer: 12 no_answer
* case counts; elsewhere upper and lower case are one"""  # noqa: E501
    )


def test_competitors_are_columns_of_the_table() -> None:
    ours = readings(12, answered("12", 0.9))
    theirs = readings(2, answered("12", 0.9))
    rows = {
        " ".join(line.split())
        for line in render(summarise(ours), [compare("other 1.0", ours, theirs)]).splitlines()
    }
    (header,) = [row for row in rows if "CER" in row]
    assert header.endswith("none other 1.0 p")
    (mine,) = [row for row in rows if row.startswith("mine *")]
    assert mine.endswith(" 0.125 0.002")
    (digits,) = [row for row in rows if row.startswith("plain_digits")]
    assert digits.endswith(" 1.000 1.000")


def test_notes_appear_only_where_they_apply() -> None:
    text = render(summarise([scored(DIGITS, *[answered("1", 0.4)] * 4)]))
    assert "no answer" not in text
    assert "case counts" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("all families")]
    assert " – " in line


def test_lines_align_and_have_no_trailing_spaces() -> None:
    lines = aligned([["", "a", "bb"], None, ["first", "1"], ["x", "1.5", "", "9"]])
    assert lines == ["         a  bb", "─────────────────", "first    1", "x      1.5      9"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "0.000"), (1.0, "1.000"), (0.12349, "0.123")]
)
def test_share(value: float | None, text: str) -> None:
    assert share(value) == text


@pytest.mark.parametrize(("value", "text"), [(1.0, "1.000"), (0.001, "0.001"), (1e-9, "<.001")])
def test_p_value(value: float, text: str) -> None:
    assert p_value(PairedComparison("one", 0, 0, value)) == text
