"""Measure the accuracy of a fit to a user's captchas, before and after, for each family.

In every family of a folder, a given number of images is for the fit and the others are the test.
The fitted checkpoints are deleted. Time is processor time of one thread, so that other work on the
machine has no effect.

Run: `python -m evaluation.fit FOLDER [--others FOLDER] [--images 20 40 80 120] [--minutes 4]
[--families NAME ...] [--base bundled] [--json FILE] [--picture FILE.svg]`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from evaluation.accuracy.plots import COLOURS, GREY, SIZE_INCHES, STYLE
from qwen_captcha.checkpoints.resolve import resolve_model
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.fitting.checkpoint_reader import CheckpointReader
from qwen_captcha.fitting.errors import FittingError
from qwen_captcha.fitting.fit import Request, fit
from qwen_captcha.images.decode import ImageLimits, decode_image
from qwen_captcha.logs import configure_logging
from qwen_captcha.recognition.answer import answer_from_output
from qwen_captcha.samples import Family, Sample, SampleError, read_families
from qwen_captcha.scores import caseless_match, ece, exact_match

_LIMITS = ImageLimits(max_image_pixels=50_000_000, max_frames=500)
_SEED = 7


@dataclass(frozen=True, slots=True)
class Reading:
    """The accuracy of a checkpoint on some images.

    Attributes:
        right: Share read right.
        ece: Calibration error of the confidences.
    """

    right: float
    ece: float


@dataclass(frozen=True, slots=True)
class Row:
    """One family, fitted to a number of its images.

    Attributes:
        family: Name of the family.
        images: Number of images that `fit` trained on or held out.
        before: The base checkpoint on the test images.
        after: The fitted checkpoint on the test images.
        others_before: The base checkpoint on the second folder, None where there is none.
        others_after: The fitted checkpoint on the second folder.
        steps: Training steps.
        seconds: Seconds of training.
    """

    family: str
    images: int
    before: Reading
    after: Reading
    others_before: Reading | None
    others_after: Reading | None
    steps: int
    seconds: float


def read_family(reader: CheckpointReader, family: Family, samples: Sequence[Sample]) -> Reading:
    """Return the accuracy of a checkpoint on images of a family."""
    match = exact_match if family.case_sensitive else caseless_match
    pictures = [decode_image(sample.path.read_bytes(), _LIMITS) for sample in samples]
    outputs = reader.read(pictures, family.name)
    answers = [answer_from_output(one, reader.plan) for one in outputs]
    right = [match(a.text, sample.label) for a, sample in zip(answers, samples, strict=True)]
    error = ece([answer.confidence for answer in answers], right)
    return Reading(fmean(right), error or 0.0)


def read_others(reader: CheckpointReader, families: Sequence[Family]) -> Reading | None:
    """Return the mean over other families, None where there are none."""
    readings = [read_family(reader, family, family.samples) for family in families]
    if not readings:
        return None
    return Reading(fmean(one.right for one in readings), fmean(one.ece for one in readings))


def split(family: Family, images: int) -> tuple[list[Sample], list[Sample]]:
    """Return the images to fit to and those to test with, the same each time."""
    samples = list(family.samples)
    random.Random(_SEED).shuffle(samples)
    return samples[:images], samples[images:]


def measure(arguments: argparse.Namespace) -> list[Row]:
    """Fit to each family and number of images; print a line for each."""
    families = [
        family
        for family in read_families(arguments.folder)
        if not arguments.families or family.name in arguments.families
    ]
    others = read_families(arguments.others) if arguments.others else []
    base = resolve_model(arguments.base)
    reader = CheckpointReader(base.checkpoint, base.model_name, use_gpu=False)
    others_before = read_others(reader, others)
    rows = []
    for family in families:
        for images in arguments.images:
            own, test = split(family, images)
            before = read_family(reader, family, test)
            rows.append(_fit(arguments, family, own, test, before, others, others_before))
            print(line(rows[-1]), flush=True)
    return rows


def _fit(
    arguments: argparse.Namespace,
    family: Family,
    own: Sequence[Sample],
    test: Sequence[Sample],
    before: Reading,
    others: Sequence[Family],
    others_before: Reading | None,
) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / family.name.replace("/", "-")
        request = Request(out, arguments.base, arguments.minutes, use_gpu=False)
        log_line = print if arguments.verbose else _silent
        card = fit(own, request, log_line=log_line, clock=time.process_time)
        reader = CheckpointReader(str(out), out.name, use_gpu=False)
        return Row(
            family=family.name,
            images=len(own),
            before=before,
            after=read_family(reader, family, test),
            others_before=others_before,
            others_after=read_others(reader, others),
            steps=card.steps,
            seconds=60 * card.minutes,
        )


def _silent(_: str) -> None:
    """Print nothing."""


def line(row: Row) -> str:
    """Return a row of the table."""
    others = ""
    if row.others_before and row.others_after:
        others = f"  others {row.others_before.right:.3f} → {row.others_after.right:.3f}"
    return (
        f"{row.family:<28} {row.images:4}  {row.before.right:.2f} → {row.after.right:.2f}  "
        f"ECE {row.before.ece:.2f} → {row.after.ece:.2f}{others}  "
        f"{row.steps} steps, {row.seconds:.0f} s"
    )


def means(rows: Sequence[Row]) -> list[Row]:
    """Return for each number of images the means over the families."""
    by_images: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_images[row.images].append(row)
    return [
        Row(
            family=f"mean of {len(some)}",
            images=images,
            before=_mean([row.before for row in some]),
            after=_mean([row.after for row in some]),
            others_before=some[0].others_before,
            others_after=_mean([row.others_after for row in some if row.others_after])
            if some[0].others_after
            else None,
            steps=round(fmean(row.steps for row in some)),
            seconds=fmean(row.seconds for row in some),
        )
        for images, some in sorted(by_images.items())
    ]


def _mean(readings: Sequence[Reading]) -> Reading:
    return Reading(fmean(one.right for one in readings), fmean(one.ece for one in readings))


def draw(rows: Sequence[Row], path: Path) -> None:
    """Write the learning curve: share right over the number of images, and each family's."""
    with rc_context(STYLE):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.subplots()
        by_family: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_family[row.family].append(row)
        for some in by_family.values():
            axes.plot(*_curve(some), color=GREY, linewidth=0.7, alpha=0.6)
        axes.plot(*_curve(means(rows)), color=COLOURS[0], linewidth=2, marker="o", label="mean")
        axes.set(xlabel="labelled images", ylabel="share read right", ylim=(-0.02, 1.02))
        axes.legend(loc="lower right", frameon=False)
        figure.savefig(path)


def _curve(rows: Sequence[Row]) -> tuple[list[int], list[float]]:
    """Return the numbers of images, 0 first, and the shares read right."""
    ordered = sorted(rows, key=lambda row: row.images)
    return (
        [0, *(row.images for row in ordered)],
        [ordered[0].before.right, *(row.after.right for row in ordered)],
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="families that the base was not trained on")
    parser.add_argument("--others", type=Path, help="families that must not be forgotten")
    parser.add_argument("--images", type=int, nargs="+", default=[40])
    parser.add_argument("--minutes", type=float, default=4.0, help="of training (default: 4)")
    parser.add_argument("--families", nargs="+", help="only these")
    parser.add_argument("--base", default="bundled", help="hub name, folder or `bundled`")
    parser.add_argument("--json", type=Path, help="write all figures")
    parser.add_argument("--picture", type=Path, help="draw the learning curve, .svg or .png")
    parser.add_argument("--verbose", action="store_true", help="print what `fit` prints")
    return parser.parse_args(arguments)


def main() -> None:
    """Run from the command line."""
    arguments = parse_arguments()
    configure_logging("warning", "auto")
    torch.set_num_threads(1)
    try:
        rows = measure(arguments)
    except (SampleError, FittingError, ModelLoadError) as error:
        sys.exit(str(error))
    for row in means(rows):
        print(line(row))
    if arguments.json:
        content = [asdict(row) for row in rows]
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if arguments.picture:
        draw(rows, arguments.picture)


if __name__ == "__main__":
    main()
