from __future__ import annotations

import pytest

from evaluation.accuracy.coverage import THRESHOLDS
from evaluation.accuracy.summary import figures_of, summarise
from evaluation.services.client import Answer
from tests.support.readings import (
    NOTHING_READ,
    answered,
    family_of,
    scored,
)


def test_the_metrics_of_a_family() -> None:
    family = family_of("one", "alnum", "Ab1", "ab2", "ab3", "ab4", baseline=0.25, tune=True)
    answers = [*(answered(text, 0.8) for text in ("ab1", "ab2", "xb3")), NOTHING_READ]
    (score,) = summarise([scored(family, *answers)]).families
    assert (score.name, score.kind, score.tune) == ("one", "alnum", True)
    figures = score.figures
    assert figures.images == 4
    assert (figures.accuracy, figures.exact, figures.caseless) == (0.5, 0.25, 0.5)
    assert figures.interval == pytest.approx((0.15004, 0.84996), abs=1e-5)
    assert figures.cer == pytest.approx(4 / 12)
    assert figures.ned == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    assert figures.confidence == pytest.approx(0.6)
    assert figures.unanswered == 1
    assert figures.baseline == 0.25
    assert [point.threshold for point in score.thresholds] == list(THRESHOLDS)
    assert [point.read for point in score.thresholds] == [0.5, 0.5, 0.5, 0.0, 0.0, 0.0]


def test_case_counts_in_the_character_errors_of_a_case_sensitive_family() -> None:
    family = family_of("one", "alnum", "Ab1", case_sensitive=True)
    figures = figures_of([scored(family, answered("ab1"))])
    assert (figures.accuracy, figures.caseless, figures.cer) == (0.0, 1.0, pytest.approx(1 / 3))


def test_means_are_over_families_and_not_over_images() -> None:
    large = family_of("large", "digits", "1", "2", "3", baseline=0.5, tune=True)
    small = family_of("small", "alnum", "a", baseline=0.1, tune=False)
    maths = family_of("maths", "math", "7", baseline=0.3, tune=False)
    summary = summarise(
        [
            scored(maths, answered("7")),
            scored(small, answered("x")),
            scored(large, answered("1", 1.0), answered("2", 1.0), answered("3", 1.0)),
        ]
    )
    assert [score.name for score in summary.families] == ["large", "small", "maths"]
    assert [(g.name, g.families, g.figures.images, g.figures.accuracy) for g in summary.kinds] == [
        ("digits", 1, 3, 1.0),
        ("alnum", 1, 1, 0.0),
        ("math", 1, 1, 1.0),
    ]
    groups = {group.name: group for group in summary.groups}
    assert list(groups) == ["digits + Latin", "all families", "tune half", "held-out half"]
    assert groups["digits + Latin"].figures.accuracy == 0.5
    assert groups["digits + Latin"].figures.baseline == pytest.approx(0.3)
    assert groups["digits + Latin"].figures.confidence == pytest.approx(3.5 / 4)
    assert groups["all families"].figures.accuracy == pytest.approx(2 / 3)
    assert summary.overall is groups["all families"]
    assert (groups["tune half"].families, groups["tune half"].figures.accuracy) == (1, 1.0)
    assert groups["held-out half"].families == 2
    assert groups["held-out half"].figures.accuracy == 0.5


def test_the_interval_of_a_mean_of_equally_large_families_is_that_of_their_images() -> None:
    one = scored(family_of("one", "digits", "1", "2"), answered("1"), answered("2"))
    two = scored(family_of("two", "digits", "1", "2"), answered("1"), NOTHING_READ)
    alone = family_of("both", "digits", "1", "2", "3", "4")
    together = scored(alone, answered("1"), answered("2"), answered("3"), NOTHING_READ)
    assert figures_of([one, two]).interval == pytest.approx(figures_of([together]).interval)


def test_the_interval_of_a_mean_of_unequal_families_contains_the_mean() -> None:
    small = scored(family_of("one", "digits", "1"), NOTHING_READ)
    large = scored(family_of("two", "digits", *"1234567"), *map(answered, "1234567"))
    figures = figures_of([small, large])
    low, high = figures.interval
    assert figures.accuracy == 0.5
    # 2² / (1 + 1/7) = 3.5 images: far less than the 8 that there are.
    assert (low, high) == pytest.approx((0.138, 0.862), abs=1e-3)


def test_a_group_whose_baseline_is_partly_unknown_has_none() -> None:
    known = family_of("known", "digits", "1", baseline=0.5)
    unknown = family_of("unknown", "digits", "1")
    summary = summarise([scored(known, answered("1")), scored(unknown, answered("1"))])
    assert [group.figures.baseline for group in summary.kinds] == [None]
    assert [group.name for group in summary.groups] == ["digits + Latin", "all families"]


def test_confidence_characters_and_time_are_over_all_images() -> None:
    sure = scored(
        family_of("one", "alnum", "a", "b"), answered("a", 0.9), answered("b", 0.9), latency_s=0.01
    )
    unsure = scored(
        family_of("two", "alnum", "c", "d"), answered("x", 0.3), NOTHING_READ, latency_s=0.2
    )
    summary = summarise([sure, unsure])
    figures = summary.overall.figures
    assert figures.auroc == 1.0
    assert figures.ece == pytest.approx((0.2 + 0.3) / 4)
    assert figures.cer == 0.5
    assert (figures.answered_at_99, figures.answered_at_95) == (0.5, 0.5)
    assert figures.median_latency_s == pytest.approx(0.105)
    assert summary.errors == {"no_answer": 1}


def test_rejections_are_counted_by_reason() -> None:
    family = family_of("one", "alnum", "a", "b", "c")
    reasons = ("undecodable_image", None, "undecodable_image")
    refused = [Answer("", 0.0, False, None, reason) for reason in reasons]
    errors = summarise([scored(family, *refused)]).errors
    assert errors == {"no_answer": 1, "undecodable_image": 2}
