"""Measure whether answers stay inside a charset, and its effect on the accuracy.

    python -m evaluation.constraints FOLDER [--url URL | --model MODEL]

Digit families are read with `charset_range=0` and letter families with `charset_range=6`, and the
same images are read without it. The answer and the model's output are both checked, so that
removing a character afterwards does not pass. The exit status is 0 only if all characters were
inside the charset and no accuracy fell.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from evaluation.accuracy.comparison import PairedComparison, compare
from evaluation.accuracy.predictions import ScoredFamilies, all_predictions
from evaluation.accuracy.readers.arguments import (
    add_reader_arguments,
    open_reader,
    read_with_bar,
)
from evaluation.accuracy.readers.base import ReaderError
from evaluation.accuracy.summary import ALL_FAMILIES, figures_of
from evaluation.accuracy.table import (
    aligned,
    p_value,
    share,
)
from qwen_captcha.recognition.charsets import CHARSET_RANGES, Charset
from qwen_captcha.samples import (
    Family,
    SampleError,
    read_families,
)

# Kind of family -> ddddocr's number of the charset that its labels are made of.
RANGE_OF_KIND = {"digits": 0, "alnum": 6}
HEADER = ["", "n", "free: outside", "right", "restricted: outside", "right", "gained", "lost", "p"]


@dataclass(frozen=True, slots=True)
class Effect:
    """One kind of families, read with and without a charset.

    Attributes:
        name: The kind and the option.
        images: Number of images.
        free_outside: Images read with a character outside, unrestricted.
        free_accuracy: Mean accuracy over the families, unrestricted.
        outside: Images read with a character outside although restricted.
        accuracy: Mean accuracy over the families, restricted.
        comparison: Restricted against unrestricted.
    """

    name: str
    images: int
    free_outside: int
    free_accuracy: float
    outside: int
    accuracy: float
    comparison: PairedComparison

    @property
    def holds(self) -> bool:
        """Whether all characters were inside the charset and the accuracy did not fall."""
        return self.outside == 0 and self.accuracy >= self.free_accuracy


def effect_of(
    name: str, charset: Charset, free: ScoredFamilies, restricted: ScoredFamilies
) -> Effect:
    """Compare a restricted run with an unrestricted one of the same images."""
    comparison = compare(name, restricted, free).groups[ALL_FAMILIES]
    return Effect(
        name=name,
        images=len(all_predictions(free)),
        free_outside=images_outside(free, charset),
        free_accuracy=figures_of(free).accuracy,
        outside=images_outside(restricted, charset),
        accuracy=figures_of(restricted).accuracy,
        comparison=comparison,
    )


def images_outside(scored: ScoredFamilies, charset: Charset) -> int:
    """Count the images whose answer or model text has a character that is not allowed."""
    return sum(
        any(character not in charset for character in p.text + (p.raw_response or ""))
        for p in all_predictions(scored)
    )


def measure(arguments: argparse.Namespace) -> list[Effect]:
    """Read each kind of families that the folder holds, with and without its charset.

    Raises:
        SampleError: The folder holds no labelled captchas of these kinds.
        ReaderError: The reader is missing, not ready, or fails.
    """
    families = read_families(arguments.folder)
    effects = []
    for kind, number in RANGE_OF_KIND.items():
        members = [family for family in families if family.kind == kind]
        if members:
            free = _read(arguments, members, {})
            restricted = _read(arguments, members, {"charset_range": str(number)})
            name = f"{kind}, charset_range={number}"
            effects.append(effect_of(name, CHARSET_RANGES[number], free, restricted))
    if not effects:
        raise SampleError(f"{arguments.folder} holds no digits and no letters.")
    return effects


def _read(
    arguments: argparse.Namespace, families: Sequence[Family], options: dict[str, str]
) -> ScoredFamilies:
    with open_reader(arguments, options) as reader:
        return read_with_bar(families, reader, arguments.workers)


def render_effects(effects: Sequence[Effect]) -> str:
    """Return the table and a conclusion."""
    rows: list[list[str] | None] = [HEADER, None]
    rows += [
        [
            effect.name,
            str(effect.images),
            str(effect.free_outside),
            share(effect.free_accuracy),
            str(effect.outside),
            share(effect.accuracy),
            str(effect.comparison.only_ours),
            str(effect.comparison.only_theirs),
            p_value(effect.comparison),
        ]
        for effect in effects
    ]
    broken = [effect.name for effect in effects if not effect.holds]
    conclusion = f"does not hold: {'; '.join(broken)}" if broken else "obeyed, and no accuracy fell"
    return "\n".join([*aligned(rows), "", conclusion])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    command = argparse.ArgumentParser(
        prog="python -m evaluation.constraints",
        description="Measure whether answers stay inside a charset, and its effect.",
    )
    add_reader_arguments(command)
    try:
        effects = measure(command.parse_args(argv))
    except (SampleError, ReaderError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(render_effects(effects))
    return 0 if all(effect.holds for effect in effects) else 1


if __name__ == "__main__":
    sys.exit(main())
