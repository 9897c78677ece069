from __future__ import annotations

import pytest

from evaluation.accuracy.comparison import (
    compare,
    comparisons_of_family,
    comparisons_of_group,
    mcnemar,
)
from tests.support.readings import (
    NOTHING_READ,
    answered,
    family_of,
    scored,
)


@pytest.mark.parametrize(
    ("only_ours", "only_theirs", "p_value"),
    [
        pytest.param(0, 0, 1.0, id="nothing-to-tell-them-apart"),
        pytest.param(3, 3, 1.0, id="even"),
        pytest.param(1, 0, 1.0, id="one-flip"),
        pytest.param(5, 0, 2 / 32, id="five-flips-are-not-enough"),
        pytest.param(0, 6, 2 / 64, id="six-are"),
        pytest.param(2, 8, 2 * (1 + 10 + 45) / 1024, id="textbook"),
        pytest.param(2000, 1000, 0.0, id="large-counts-do-not-overflow"),
    ],
)
def test_mcnemar(only_ours: int, only_theirs: int, p_value: float) -> None:
    assert mcnemar(only_ours, only_theirs) == pytest.approx(p_value, abs=1e-12)
    assert mcnemar(only_theirs, only_ours) == mcnemar(only_ours, only_theirs)


def test_mcnemar_rejects_negative_counts() -> None:
    with pytest.raises(ValueError, match="-1 and 2 are no counts"):
        mcnemar(-1, 2)


# A family may bear a kind's name.
DIGITS = family_of("alnum", "digits", "1", "2")
LETTERS = family_of("letters", "alnum", "a")


def test_paired_counts_are_of_images_that_only_one_reads() -> None:
    ours = [
        scored(DIGITS, answered("1"), answered("2")),
        scored(LETTERS, answered("x")),
    ]
    theirs = [scored(DIGITS, NOTHING_READ, answered("2")), scored(LETTERS, answered("A"))]
    competitor = compare("other", ours, theirs)
    counts = {name: (d.only_ours, d.only_theirs) for name, d in competitor.families.items()}
    assert counts == {"alnum": (1, 0), "letters": (0, 1)}
    counts = {name: (d.only_ours, d.only_theirs) for name, d in competitor.groups.items()}
    both = (1, 1)
    assert counts == {
        "digits": (1, 0),
        "alnum": (0, 1),
        "digits + Latin": both,
        "all families": both,
    }
    ((figures, comparison),) = comparisons_of_family("alnum", [competitor])
    assert (figures.accuracy, comparison) == (0.5, competitor.families["alnum"])
    ((figures, comparison),) = comparisons_of_group("alnum", [competitor])
    assert (figures.accuracy, comparison) == (1.0, competitor.groups["alnum"])


def test_readers_of_different_images_are_not_compared() -> None:
    other = family_of("letters", "alnum", "a", "b")
    with pytest.raises(ValueError, match="different images"):
        compare("other", [scored(LETTERS, NOTHING_READ)], [scored(other, *[NOTHING_READ] * 2)])
