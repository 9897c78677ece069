"""McNemar's test of two readers of the same images.

The test is on the counts of images that only one of the two reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from evaluation.accuracy.predictions import (
    Prediction,
    ScoredFamilies,
    all_predictions,
)
from evaluation.accuracy.summary import (
    BY_KIND,
    OVERALL,
    Figures,
    Summary,
    summarise,
)


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """One reader against another on the images of a family or group.

    Attributes:
        name: Family or group.
        only_ours: Images that ours alone reads right.
        only_theirs: Images that theirs alone reads right.
        p_value: Chance of counts at least this uneven if both were equally good, two-sided.
    """

    name: str
    only_ours: int
    only_theirs: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Competitor:
    """Another reader of the same images, and the comparison of ours with it.

    Attributes:
        name: Name in the report.
        scored: Its predictions.
        summary: Its figures.
        families: A comparison for each family, by name.
        groups: A comparison for each kind and each further group, by name.
    """

    name: str
    scored: ScoredFamilies
    summary: Summary
    families: dict[str, PairedComparison]
    groups: dict[str, PairedComparison]


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    If both readers are equally good, each image that only one of them reads is a fair coin. Source:
    McNemar, Note on the sampling error of the difference between correlated proportions, 1947.

    Raises:
        ValueError: A count is negative.
    """
    if min(only_ours, only_theirs) < 0:
        raise ValueError(f"{only_ours} and {only_theirs} are no counts")
    flips = only_ours + only_theirs
    tail = sum(math.comb(flips, heads) for heads in range(min(only_ours, only_theirs) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**flips)))


def compare(name: str, ours: ScoredFamilies, theirs: ScoredFamilies) -> Competitor:
    """Compare two readers on the same families, in the same order.

    Raises:
        ValueError: The images differ.
    """
    if [_files(item) for item in ours] != [_files(item) for item in theirs]:
        raise ValueError("the readers read different images")
    paired = list(zip(ours, theirs, strict=True))
    families = {
        our[0].name: _paired_comparison(our[0].name, [our], [their]) for our, their in paired
    }
    groups = {}
    for group, belongs in (BY_KIND | OVERALL).items():
        members = [pair for pair in paired if belongs(pair[0][0])]
        if members:
            our_part, their_part = zip(*members, strict=True)
            groups[group] = _paired_comparison(group, our_part, their_part)
    return Competitor(name, theirs, summarise(theirs), families, groups)


def comparisons_of_family(
    name: str, competitors: Sequence[Competitor]
) -> list[tuple[Figures, PairedComparison]]:
    """Return each competitor's figures on a family, with the comparison over it."""
    return [
        (score.figures, competitor.families[name])
        for competitor in competitors
        for score in competitor.summary.families
        if score.name == name
    ]


def comparisons_of_group(
    name: str, competitors: Sequence[Competitor]
) -> list[tuple[Figures, PairedComparison]]:
    """Return each competitor's figures on a kind or another group, with the comparison over it."""
    return [
        (score.figures, competitor.groups[name])
        for competitor in competitors
        for score in (*competitor.summary.kinds, *competitor.summary.groups)
        if score.name == name
    ]


def _files(item: tuple[object, Sequence[Prediction]]) -> list[str]:
    return [prediction.file for prediction in item[1]]


def _paired_comparison(name: str, ours: ScoredFamilies, theirs: ScoredFamilies) -> PairedComparison:
    pairs = list(zip(all_predictions(ours), all_predictions(theirs), strict=True))
    only_ours = sum(our.correct and not their.correct for our, their in pairs)
    only_theirs = sum(their.correct and not our.correct for our, their in pairs)
    return PairedComparison(name, only_ours, only_theirs, mcnemar(only_ours, only_theirs))
