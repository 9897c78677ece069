"""Checks of labelled captchas before a model learns from them.

They find duplicate pictures, sums without their expression, unusual lengths, and labels that the
base model contradicts with a high confidence. Such a label counts as wrong only where the base
reads this folder reliably at that confidence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from qwen_captcha.fitting.examples import Example
from qwen_captcha.recognition.answer import Answer
from qwen_captcha.scores import caseless_match

# From this confidence on the base is sure. Its readings count where this share
# of the labels that it is sure about, of at least so many, are as it reads them.
_SURE = 0.9
_MIN_AGREEMENT, _MIN_SURE = 0.8, 5
# A length is the rule where this share of the labels, of at least so many, has it.
_RULE, _MIN_RULED = 0.9, 20


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An image that is not learnt from."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of checking a folder.

    Attributes:
        examples: To learn from and to be tested with.
        left_out: The others.
        notes: What a person should look at, one line each.
    """

    examples: list[Example]
    left_out: list[LeftOut]
    notes: list[str]


def check_pictures(examples: Sequence[Example]) -> Checked:
    """Leave out pictures that occur more than once, both where their labels differ."""
    by_picture: dict[tuple[tuple[int, int], bytes], list[Example]] = defaultdict(list)
    for example in examples:
        by_picture[example.picture.size, example.picture.tobytes()].append(example)
    kept, left_out = [], []
    for first, *others in by_picture.values():
        if all(other.label == first.label for other in others):
            kept.append(first)
            left_out += [LeftOut(other.name, f"the same as {first.name}") for other in others]
        else:
            names = ", ".join(example.name for example in (first, *others))
            reason = f"one picture with different labels: {names}"
            left_out += [LeftOut(example.name, reason) for example in (first, *others)]
    return Checked(kept, left_out, _repeated_labels(kept))


def check_labels(examples: Sequence[Example], answers: Sequence[Answer]) -> Checked:
    """Leave out labels that look wrong beside the answers of the base, one for each example."""
    rule = _common_length(examples)
    base_is_reliable = _is_reliable(examples, answers)
    sums = 2 * sum(map(_is_computed, answers)) > len(answers)
    kept, left_out = [], []
    for example, answer in zip(examples, answers, strict=True):
        agrees = caseless_match(answer.text, example.label)
        unknown = sums and example.text == example.label
        reason = None
        if agrees and _is_computed(answer):
            # The label is a value: what the base has read is drawn.
            example = replace(example, text=_drawn(answer)) if unknown else example
        elif unknown:
            reason = "a sum without its expression (fourth column of labels.tsv)"
        elif rule is not None and len(example.text) != rule and not agrees:
            reason = f"label {example.text} has {len(example.text)} characters, others {rule}"
        elif base_is_reliable and not agrees and answer.confidence >= _SURE:
            reason = f"label {example.label}, but the base is sure of {answer.text}"
        if reason is None:
            kept.append(example)
        else:
            left_out.append(LeftOut(example.name, reason))
    return Checked(kept, left_out, [])


def _is_computed(answer: Answer) -> bool:
    """Return whether an answer is the value of an expression."""
    return answer.success and not caseless_match(_drawn(answer), answer.text)


def _drawn(answer: Answer) -> str:
    return "".join(answer.raw_response.split())


def _repeated_labels(examples: Iterable[Example]) -> list[str]:
    """Return a line for each label of four or more characters that several pictures have."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        if example.label == example.text and len(example.label) >= 4:
            by_label[example.label].append(example.name)
    return [
        f"label {label} has {len(names)} different pictures: {', '.join(names)}"
        for label, names in by_label.items()
        if len(names) > 1
    ]


def _common_length(examples: Sequence[Example]) -> int | None:
    """Return the length that nearly all labels have, None where there is none."""
    lengths = Counter(len(example.text) for example in examples)
    if len(examples) < _MIN_RULED:
        return None
    length, count = lengths.most_common(1)[0]
    return length if count >= _RULE * len(examples) else None


def _is_reliable(examples: Sequence[Example], answers: Sequence[Answer]) -> bool:
    sure = [
        caseless_match(answer.text, example.label)
        for example, answer in zip(examples, answers, strict=True)
        if answer.confidence >= _SURE
    ]
    return len(sure) >= _MIN_SURE and sum(sure) >= _MIN_AGREEMENT * len(sure)
