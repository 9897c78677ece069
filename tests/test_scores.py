from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_captcha import scores

short_texts = st.text(alphabet="ab1验", max_size=6)
predictions = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.73, 0.9, 1.0]), st.booleans()), max_size=30
)


@pytest.mark.parametrize(
    ("text", "label", "exact", "caseless"),
    [
        pytest.param("a3B9", "a3B9", True, True, id="identical"),
        pytest.param("A3b9", "a3B9", False, True, id="case-differs"),
        pytest.param("a3b", "a3b9", False, False, id="too-short"),
        pytest.param("a3b9 ", "a3b9", False, False, id="a-space-counts"),
        pytest.param("验证", "验证", True, True, id="chinese"),
        pytest.param("", "", True, True, id="both-empty"),
        pytest.param("0O", "O0", False, False, id="look-alikes-are-different"),
    ],
)
def test_matches(text: str, label: str, exact: bool, caseless: bool) -> None:
    assert scores.exact_match(text, label) is exact
    assert scores.caseless_match(text, label) is caseless


@pytest.mark.parametrize(
    ("text", "label", "distance"),
    [
        pytest.param("", "", 0, id="empty"),
        pytest.param("", "abc", 3, id="insertions"),
        pytest.param("abcd", "", 4, id="deletions"),
        pytest.param("kitten", "sitting", 3, id="textbook"),
        pytest.param("abcd", "bcd", 1, id="first-lost"),
        pytest.param("ab", "ba", 2, id="a-swap-is-two-edits"),
        pytest.param("验证码", "验正码", 1, id="chinese"),
    ],
)
def test_edit_distance(text: str, label: str, distance: int) -> None:
    assert scores.edit_distance(text, label) == distance


@given(short_texts, short_texts, short_texts)
def test_edit_distance_is_a_metric(a: str, b: str, c: str) -> None:
    assert (scores.edit_distance(a, b) == 0) == (a == b)
    assert scores.edit_distance(a, b) == scores.edit_distance(b, a)
    assert scores.edit_distance(a, c) <= scores.edit_distance(a, b) + scores.edit_distance(b, c)
    assert abs(len(a) - len(b)) <= scores.edit_distance(a, b) <= max(len(a), len(b))


@pytest.mark.parametrize(
    ("pairs", "cer", "ned"),
    [
        pytest.param([("abcd", "abcd")], 0.0, 1.0, id="right"),
        pytest.param([("", "abcd")], 1.0, 0.0, id="no-answer"),
        pytest.param([("abcd", "ab")], 1.0, 0.5, id="too-long"),
        pytest.param([("abcdef", "a")], 5.0, 1 / 6, id="cer-exceeds-one"),
        pytest.param([("a", "a"), ("xyz", "abc")], 0.75, 0.5, id="long-labels-weigh-more-in-cer"),
        pytest.param([("", "")], None, 1.0, id="no-label-character"),
        pytest.param([], None, None, id="no-pairs"),
    ],
)
def test_cer_and_ned(pairs: list[tuple[str, str]], cer: float | None, ned: float | None) -> None:
    assert scores.cer(pairs) == pytest.approx(cer)
    assert scores.ned(pairs) == pytest.approx(ned)


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [
        pytest.param(0, 0, (0.0, 1.0), id="nothing-known"),
        pytest.param(0, 10, (0.0, 0.27753), id="none"),
        pytest.param(10, 10, (0.72247, 1.0), id="all"),
        pytest.param(8, 16, (0.28000, 0.72000), id="half"),
        pytest.param(81, 263, (0.25529, 0.36620), id="newcombe-1998"),
    ],
)
def test_wilson_interval(successes: int, trials: int, interval: tuple[float, float]) -> None:
    assert scores.wilson_interval(successes, trials) == pytest.approx(interval, abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_contains_the_share_and_mirrors(counts: tuple[int, int]) -> None:
    successes, trials = counts
    low, high = scores.wilson_interval(successes, trials)
    assert 0.0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1.0
    mirrored = scores.wilson_interval(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("successes", "trials"), [(-1, 4), (5, 4), (0, -1)])
def test_wilson_interval_rejects_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes in {trials} trials"):
        scores.wilson_interval(successes, trials)


@pytest.mark.parametrize(
    ("confidences", "correct", "expected"),
    [
        pytest.param([], [], None, id="no-predictions"),
        pytest.param([1.0, 1.0], [True, True], 0.0, id="sure-and-right"),
        pytest.param([1.0, 1.0], [False, False], 1.0, id="sure-and-wrong"),
        pytest.param([0.0, 0.0], [False, False], 0.0, id="knows-that-it-fails"),
        pytest.param([0.55, 0.55], [True, False], 0.05, id="one-bin"),
        pytest.param([0.95, 0.15], [True, False], 0.1, id="two-bins-do-not-cancel"),
        pytest.param([0.61, 0.69], [True, False], 0.15, id="one-bin-cancels"),
        pytest.param([0.7, 0.69], [False, True], (0.7 + 0.31) / 2, id="border-goes-up"),
        pytest.param([0.9, 1.0], [True, True], 0.05, id="one-is-in-the-last-bin"),
    ],
)
def test_ece(confidences: list[float], correct: list[bool], expected: float | None) -> None:
    assert scores.ece(confidences, correct) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("confidences", "correct", "expected"),
    [
        pytest.param([], [], None, id="no-predictions"),
        pytest.param([0.4, 0.9], [True, True], None, id="all-right"),
        pytest.param([0.4, 0.9], [False, False], None, id="all-wrong"),
        pytest.param([0.9, 0.4], [True, False], 1.0, id="separated"),
        pytest.param([0.4, 0.9], [True, False], 0.0, id="upside-down"),
        pytest.param([0.5] * 4, [True, False, True, False], 0.5, id="constant"),
        pytest.param([0.9, 0.5, 0.5, 0.1], [True, True, False, False], 0.875, id="one-tie"),
        pytest.param([0.8, 0.7, 0.6, 0.5], [True, False, True, False], 0.75, id="one-inversion"),
    ],
)
def test_auroc(confidences: list[float], correct: list[bool], expected: float | None) -> None:
    assert scores.auroc(confidences, correct) == pytest.approx(expected)


@given(predictions)
def test_auroc_counts_pairs(drawn: list[tuple[float, bool]]) -> None:
    right = [confidence for confidence, correct in drawn if correct]
    wrong = [confidence for confidence, correct in drawn if not correct]
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    expected = wins / (len(right) * len(wrong)) if right and wrong else None
    actual = scores.auroc([c for c, _ in drawn], [correct for _, correct in drawn])
    assert actual == pytest.approx(expected)


@given(predictions)
def test_ece_is_the_weighted_gap_of_the_bins(drawn: list[tuple[float, bool]]) -> None:
    binned: dict[int, list[tuple[float, bool]]] = {}
    for confidence, correct in drawn:
        binned.setdefault(min(math.floor(confidence * 10), 9), []).append((confidence, correct))
    expected = sum(
        len(members)
        / len(drawn)
        * abs(sum(c for c, _ in members) / len(members) - sum(r for _, r in members) / len(members))
        for members in binned.values()
    )
    actual = scores.ece([c for c, _ in drawn], [correct for _, correct in drawn])
    assert actual == (pytest.approx(expected, abs=1e-9) if drawn else None)


@pytest.mark.parametrize("score", [scores.ece, scores.auroc], ids=["ece", "auroc"])
@pytest.mark.parametrize(
    ("confidences", "correct", "message"),
    [
        pytest.param([0.5], [True, False], "1 confidences for 2", id="lengths-differ"),
        pytest.param([1.2, 0.1], [True, False], "1.2 is outside", id="above-one"),
        pytest.param([-0.1, 0.1], [True, False], "-0.1 is outside", id="negative"),
        pytest.param([math.nan, 0.1], [True, False], "nan is outside", id="not-a-number"),
    ],
)
def test_confidence_scores_reject_values_that_are_no_probability(
    score: object, confidences: list[float], correct: list[bool], message: str
) -> None:
    assert callable(score)
    with pytest.raises(ValueError, match=message):
        score(confidences, correct)
