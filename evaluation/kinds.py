"""Measure a reader on plain print of kinds that are often read wrongly.

An answer is right if it is the text that a person would type, in either case. An image without text
is read right if there is no answer. The table has the number of right answers, and of wrong answers
with a high confidence.

Run: `python -m evaluation.kinds [--url URL | --model MODEL] [--count 40] [--misses]`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm  # type: ignore[import-untyped]

from evaluation.accuracy.plain_print import KINDS, Drawing, draw_kinds
from evaluation.accuracy.readers.arguments import choose_reader, open_reader
from evaluation.accuracy.readers.base import Reader, ReaderError
from evaluation.accuracy.table import aligned
from evaluation.services.client import Answer

SURE = 0.9
HEADER = ["kind", "n", "right", f"wrong at {SURE}+", "confidence right", "wrong"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One captcha and the answer of the reader."""

    drawing: Drawing
    answer: Answer

    @property
    def right(self) -> bool:
        """Whether the text is the expected one, empty for an image without text."""
        text = self.answer.text if self.answer.success else ""
        return text.casefold() == self.drawing.label.casefold()


def measure(reader: Reader, count: int) -> dict[str, list[Outcome]]:
    """Read `count` captchas of each kind.

    Raises:
        ReaderError: The reader cannot continue.
        OSError: No font is installed.
    """
    outcomes: dict[str, list[Outcome]] = {}
    # `disable=None`: no bar where the output is not a terminal.
    with tqdm(total=count * len(KINDS), unit="image", disable=None, leave=False) as bar:
        for kind, drawings in draw_kinds(count):
            outcomes[kind] = []
            for drawing in drawings:
                answer = reader.read(drawing.png, "image/png", kind).answer
                outcomes[kind].append(Outcome(drawing, answer))
                bar.update()
    return outcomes


def render(outcomes: dict[str, list[Outcome]]) -> str:
    """Return the table, a row for each kind."""
    rows: list[list[str] | None] = [HEADER, None]
    for kind, group in outcomes.items():
        wrong = [outcome for outcome in group if not outcome.right]
        sure = sum(outcome.answer.confidence >= SURE for outcome in wrong)
        right = [outcome for outcome in group if outcome.right]
        confidences = [_median(part) for part in (right, wrong)]
        rows.append([kind, str(len(group)), str(len(right)), str(sure), *confidences])
    return "\n".join(aligned(rows))


def _median(outcomes: Sequence[Outcome]) -> str:
    """Return the median confidence of some answers, a dash where there are none."""
    if not outcomes:
        return "–"
    return f"{statistics.median(outcome.answer.confidence for outcome in outcomes):.3f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    command = argparse.ArgumentParser(
        prog="python -m evaluation.kinds",
        description="Measure a reader on plain print of kinds that are often read wrongly.",
    )
    choose_reader(command)
    command.add_argument("--count", type=int, default=40, help="captchas of each kind")
    command.add_argument("--misses", action="store_true", help="print each wrong answer, too")
    arguments = command.parse_args(argv)
    try:
        with open_reader(arguments, {}) as reader:
            outcomes = measure(reader, arguments.count)
    except (ReaderError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.misses:
        for kind, group in outcomes.items():
            for outcome in group:
                if not outcome.right:
                    answer, shown = outcome.answer, outcome.drawing.shown
                    print(f"{kind}: {shown} read as {answer.text!r} at {answer.confidence:.3f}")
    print(render(outcomes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
