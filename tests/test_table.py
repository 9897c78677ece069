from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.client import Answer
from evaluation.samples import Family, Sample
from evaluation.summary import judge, summarise
from evaluation.table import aligned, render, share


def judged_family(family: Family, right: int) -> object:
    return family, [
        judge(
            family,
            sample,
            Answer(sample.label, 0.9, True, sample.label, None)
            if index < right
            else Answer("", 0.0, False, None, "no_answer"),
            0.0314,
        )
        for index, sample in enumerate(family.samples)
    ]


def family_of(name: str, kind: str, images: int, **facts: object) -> Family:
    return Family(name, kind, tuple(Sample(Path(f"{i}.png"), "12") for i in range(images)), **facts)


def test_the_table_as_a_terminal_shows_it() -> None:
    summary = summarise(
        [
            judged_family(family_of("plain_digits", "digits", 4, baseline=0.5, tune=True), 4),
            judged_family(family_of("mine", "alnum", 16, case_sensitive=True), 4),
        ]
    )
    assert render(summary) == (
        """\
                     n  exact   95% interval  ddddocr    diff   conf  none
──────────────────────────────────────────────────────────────────────────
digits
  plain_digits       4  1.000  0.510 – 1.000    0.500  +0.500  0.900     –
  mean (1)           4  1.000                   0.500  +0.500  0.900     –
──────────────────────────────────────────────────────────────────────────
alnum
  mine *            16  0.250  0.102 – 0.495        –       –  0.225    12
  mean (1)          16  0.250                       –       –  0.225    12
──────────────────────────────────────────────────────────────────────────
digits + Latin (2)  20  0.625                       –       –  0.562    12
all families (2)    20  0.625                       –       –  0.562    12
tune half (1)        4  1.000                   0.500  +0.500  0.900     –

ECE 0.040   AUROC 1.000   CER 0.600   median latency 31.4 ms
no answer: 12 no_answer
* case counts; elsewhere upper and lower case are one"""
    )


def test_notes_appear_only_where_they_say_something() -> None:
    text = render(summarise([judged_family(family_of("plain", "digits", 2), 2)]))
    assert "no answer" not in text
    assert "case counts" not in text
    assert "AUROC –" in text


def test_lines_align_and_have_no_trailing_spaces() -> None:
    lines = aligned([["", "a", "bb"], None, ["first", "1"], ["x", "1.5", "", "9"]])
    assert lines == ["         a  bb", "─────────────────", "first    1", "x      1.5      9"]


@pytest.mark.parametrize(
    ("value", "text"), [(None, "–"), (0.0, "0.000"), (1.0, "1.000"), (0.12349, "0.123")]
)
def test_share(value: float | None, text: str) -> None:
    assert share(value) == text
