"""Counts of characters that are read as other characters.

Answers are aligned with labels. Arithmetic is left out, because its label is a number that is not
in the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from evaluation.accuracy.predictions import ScoredFamilies, text_pairs
from qwen_captcha.scores import edit_costs

# In a pair, no character: one is missing in the answer, or in the label.
NOTHING = ""


@dataclass(frozen=True, slots=True)
class Confusions:
    """Counts of aligned characters.

    Attributes:
        drawn: Number of times that each character was drawn.
        mistakes: (drawn, read) -> number of times; `NOTHING` for a missing character.
    """

    drawn: Counter[str]
    mistakes: Counter[tuple[str, str]]


def confusions(scored: ScoredFamilies) -> Confusions:
    """Count the characters of all answered images but arithmetic ones."""
    drawn: Counter[str] = Counter()
    mistakes: Counter[tuple[str, str]] = Counter()
    for family, predictions in scored:
        if family.kind == "math":
            continue
        answered = [prediction for prediction in predictions if prediction.answered]
        for text, label in text_pairs(family, answered):
            drawn.update(label)
            mistakes.update(pair for pair in aligned_pairs(label, text) if pair[0] != pair[1])
    return Confusions(drawn, mistakes)


def aligned_pairs(label: str, text: str) -> Iterable[tuple[str, str]]:
    """Return (drawn, read) pairs of one cheapest alignment, from left to right.

    Of several alignments with the fewest edits, the one with the most pairs of two characters.
    """
    costs = edit_costs(label, text)
    pairs = []
    i, j = len(label), len(text)
    while i or j:
        if i and j and costs[i][j] == costs[i - 1][j - 1] + (label[i - 1] != text[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((label[i], text[j]))
        elif i and costs[i][j] == costs[i - 1][j] + 1:
            i -= 1
            pairs.append((label[i], NOTHING))
        else:
            j -= 1
            pairs.append((NOTHING, text[j]))
    return reversed(pairs)
