from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.client import Answer
from evaluation.samples import Family, Sample
from evaluation.summary import Prediction, judge, summarise


def family_of(
    name: str,
    kind: str = "alnum",
    *labels: str,
    case_sensitive: bool = False,
    baseline: float | None = None,
    tune: bool | None = None,
) -> Family:
    samples = tuple(Sample(Path(f"{i}.png"), label) for i, label in enumerate(labels))
    return Family(name, kind, samples, case_sensitive, baseline, tune)


def judged(
    family: Family, *answers: str | None, confidence: float = 0.5, latency_s: float = 0.01
) -> tuple[Family, list[Prediction]]:
    """Pair a family's samples with texts; None is an image without an answer."""
    return family, [
        judge(
            family,
            sample,
            Answer("", 0.0, False, None, "no_answer")
            if text is None
            else Answer(text, confidence, True, text, None),
            latency_s,
        )
        for sample, text in zip(family.samples, answers, strict=True)
    ]


@pytest.mark.parametrize(
    ("text", "case_sensitive", "correct"),
    [
        pytest.param("A3b9", False, True, id="case-ignored"),
        pytest.param("A3b9", True, False, id="case-counts"),
        pytest.param("a3b9", True, True, id="identical"),
        pytest.param("a3b", False, False, id="wrong"),
        pytest.param(None, False, False, id="no-answer"),
    ],
)
def test_what_is_right(text: str | None, case_sensitive: bool, correct: bool) -> None:
    family = family_of("one", "alnum", "a3b9", case_sensitive=case_sensitive)
    _, (prediction,) = judged(family, text)
    assert prediction.correct is correct
    assert prediction.answered is (text is not None)
    assert prediction.error_type == ("no_answer" if text is None else None)


def test_text_without_success_is_never_right() -> None:
    family = family_of("one", "alnum", "a3b9")
    refused = Answer("a3b9", 0.9, False, "a3b9", "no_answer")
    assert judge(family, family.samples[0], refused, 0.01).correct is False
    summary = summarise([(family, [judge(family, family.samples[0], refused, 0.01)])])
    assert (summary.families[0].exact, summary.families[0].caseless) == (0.0, 0.0)


def test_a_familys_figures() -> None:
    family = family_of("one", "alnum", "Ab1", "ab2", "ab3", "ab4", baseline=0.25, tune=True)
    summary = summarise([judged(family, "ab1", "ab2", "xb3", None, confidence=0.8)])
    (score,) = summary.families
    assert (score.name, score.kind, score.images, score.tune) == ("one", "alnum", 4, True)
    assert (score.accuracy, score.exact, score.caseless) == (0.5, 0.25, 0.5)
    assert score.interval == pytest.approx((0.15004, 0.84996), abs=1e-5)
    assert score.cer == pytest.approx(4 / 12)
    assert score.ned == pytest.approx((1 + 1 + 2 / 3 + 0) / 4)
    assert score.confidence == pytest.approx(0.6)
    assert score.unanswered == 1
    assert score.baseline == 0.25


def test_case_counts_in_the_character_errors_of_a_case_sensitive_family() -> None:
    family = family_of("one", "alnum", "Ab1", case_sensitive=True)
    (score,) = summarise([judged(family, "ab1")]).families
    assert (score.accuracy, score.caseless, score.cer) == (0.0, 1.0, pytest.approx(1 / 3))


def test_means_are_over_families_and_not_over_images() -> None:
    large = family_of("large", "digits", "1", "2", "3", baseline=0.5, tune=True)
    small = family_of("small", "alnum", "a", baseline=0.1, tune=False)
    maths = family_of("maths", "math", "7", baseline=0.3, tune=False)
    summary = summarise(
        [judged(maths, "7"), judged(small, "x"), judged(large, "1", "2", "3", confidence=1.0)]
    )
    assert [score.name for score in summary.families] == ["large", "small", "maths"]
    assert [(g.name, g.families, g.images, g.accuracy) for g in summary.kinds] == [
        ("digits", 1, 3, 1.0),
        ("alnum", 1, 1, 0.0),
        ("math", 1, 1, 1.0),
    ]
    groups = {group.name: group for group in summary.groups}
    assert list(groups) == ["digits + Latin", "all families", "tune half", "held-out half"]
    assert groups["digits + Latin"].accuracy == 0.5
    assert groups["digits + Latin"].baseline == pytest.approx(0.3)
    assert groups["digits + Latin"].confidence == pytest.approx(0.75)
    assert groups["all families"].accuracy == pytest.approx(2 / 3)
    assert (groups["tune half"].families, groups["tune half"].accuracy) == (1, 1.0)
    assert (groups["held-out half"].families, groups["held-out half"].accuracy) == (2, 0.5)


def test_a_group_whose_baseline_is_partly_unknown_has_none() -> None:
    known = family_of("known", "digits", "1", baseline=0.5)
    unknown = family_of("unknown", "digits", "1")
    summary = summarise([judged(known, "1"), judged(unknown, "1")])
    assert [group.baseline for group in summary.kinds] == [None]
    assert [group.name for group in summary.groups] == ["digits + Latin", "all families"]


def test_overall_figures() -> None:
    family = family_of("one", "alnum", "a", "b", "c", "d")
    _, sure = judged(family_of("one", "alnum", "a", "b"), "a", "b", confidence=0.9, latency_s=0.01)
    _, unsure = judged(
        family_of("one", "alnum", "c", "d"), "x", None, confidence=0.3, latency_s=0.2
    )
    summary = summarise([(family, [*sure, *unsure])])
    assert summary.auroc == 1.0
    assert summary.ece == pytest.approx((0.2 + 0.3) / 4)
    assert summary.cer == 0.5
    assert summary.median_latency_s == pytest.approx(0.105)
    assert summary.errors == {"no_answer": 1}


def test_refusals_are_counted_by_reason() -> None:
    family = family_of("one", "alnum", "a", "b", "c")
    answers = [
        Answer("", 0.0, False, None, reason)
        for reason in ("undecodable_image", None, "undecodable_image")
    ]
    predictions = [judge(family, family.samples[0], answer, 0.01) for answer in answers]
    assert summarise([(family, predictions)]).errors == {"no_answer": 1, "undecodable_image": 2}
