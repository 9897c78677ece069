from __future__ import annotations

import json

from evaluation.accuracy.comparison import compare
from evaluation.accuracy.report import as_json, count_warnings
from tests.support.readings import (
    NOTHING_READ,
    answered,
    family_of,
    report_of,
    scored,
)

LETTERS = family_of("letters", "alnum", "AB3", "d4", tune=True)
OURS = scored(LETTERS, answered("aB3", 0.75, "w"), answered("c4", 0.75, "w", "v"))
THEIRS = scored(LETTERS, NOTHING_READ, answered("d4", 1.0))


def test_warnings_are_counted_the_most_frequent_first() -> None:
    assert list(count_warnings([OURS]).items()) == [("w", 2), ("v", 1)]


def test_the_json_file_has_source_metrics_and_every_prediction() -> None:
    report = json.loads(json.dumps(as_json(report_of(OURS))))
    assert (report["folder"], report["url"], report["options"]) == ("mine", None, {"kind": "text"})
    assert report["families"][0]["figures"]["accuracy"] == 0.5
    assert report["warnings"] == {"w": 2, "v": 1}
    assert report["competitors"] == []
    first, second = report["predictions"]
    assert first == {
        "family": "letters",
        "file": "0.png",
        "label": "AB3",
        "expression": None,
        "text": "aB3",
        "raw_response": "aB3",
        "confidence": 0.75,
        "answered": True,
        "error_type": None,
        "correct": True,
        "latency_s": 0.01,
        "warnings": ["w"],
    }
    assert (second["text"], second["correct"]) == ("c4", False)


def test_the_json_file_has_each_competitor_and_the_paired_counts() -> None:
    (competitor,) = as_json(report_of(OURS, competitors=[compare("other", [OURS], [THEIRS])]))[
        "competitors"
    ]
    assert competitor["name"] == "other"
    assert competitor["families"][0]["figures"]["accuracy"] == 0.5
    assert [row["text"] for row in competitor["predictions"]] == ["", "d4"]
    assert competitor["comparison"]["families"] == [
        {"name": "letters", "only_ours": 1, "only_theirs": 1, "p_value": 1.0}
    ]
    assert {comparison["name"] for comparison in competitor["comparison"]["groups"]} >= {
        "alnum",
        "tune half",
    }
