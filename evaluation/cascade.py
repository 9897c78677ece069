"""Measure the benefit of a second reader: share of images passed on against accuracy and time.

Every image is read by both readers, and the cascade of each threshold is computed from that.

Run: `python -m evaluation.cascade FOLDER --model bundled --second ppocr [--svg FILE]`
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from statistics import fmean

from evaluation.accuracy.predictions import Prediction, ScoredFamilies
from evaluation.accuracy.readers.arguments import read_with_bar
from evaluation.accuracy.readers.base import ReaderError
from evaluation.accuracy.readers.model import loaded_reader, model_reader
from qwen_captcha.backends.factory import create_second_backend
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.options import Options
from qwen_captcha.samples import SampleError, read_families
from qwen_captcha.settings import SettingsError, load_settings

THRESHOLDS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class Point:
    """A cascade with one threshold; means over families.

    Attributes:
        below: Answers with less confidence are passed on.
        passed_on: Share of images that are passed on.
        accuracy: Share of right answers.
        seconds: Mean time of an image, both readings one after the other.
    """

    below: float
    passed_on: float
    accuracy: float
    seconds: float


def curve(first: ScoredFamilies, second: ScoredFamilies) -> list[Point]:
    """Return a point for each threshold, from the outputs of two readers for the same images."""
    families = [
        list(zip(ours, theirs, strict=True))
        for (_, ours), (_, theirs) in zip(first, second, strict=True)
    ]
    return [_point(below, families) for below in THRESHOLDS]


def _point(below: float, families: Sequence[Sequence[tuple[Prediction, Prediction]]]) -> Point:
    passed_on, accuracy, seconds = [], [], []
    for pairs in families:
        passed = [one.confidence < below for one, _ in pairs]
        chosen = [
            max(one, other, key=lambda p: (p.answered, p.confidence)) if is_passed else one
            for (one, other), is_passed in zip(pairs, passed, strict=True)
        ]
        passed_on.append(fmean(passed))
        accuracy.append(fmean(prediction.correct for prediction in chosen))
        seconds.append(
            fmean(
                one.latency_s + (other.latency_s if is_passed else 0.0)
                for (one, other), is_passed in zip(pairs, passed, strict=True)
            )
        )
    return Point(below, fmean(passed_on), fmean(accuracy), fmean(seconds))


def table(points: Sequence[Point]) -> str:
    """Return the points as a table."""
    lines = ["below  passed on  accuracy  ms an image"]
    lines += [
        f"{p.below:5.2f}  {p.passed_on:9.3f}  {p.accuracy:8.3f}  {1000 * p.seconds:11.1f}"
        for p in points
    ]
    return "\n".join(lines)


def picture(points: Sequence[Point]) -> str:
    """Return accuracy and time against the share passed on, as SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    accuracy = figure.subplots()
    shares = [point.passed_on for point in points]
    accuracy.plot(shares, [point.accuracy for point in points], "o-", color="#1f5fa8")
    accuracy.set(xlabel="share passed on", ylabel="accuracy")
    time = accuracy.twinx()
    time.plot(shares, [1000 * point.seconds for point in points], "s--", color="#c8663a")
    time.set_ylabel("ms an image (dashed)")
    file = StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    command = argparse.ArgumentParser(prog="python -m evaluation.cascade", description=__doc__)
    command.add_argument("folder", type=Path, help="labelled captchas")
    command.add_argument("--model", default="bundled", help="the first reader's QWEN_MODEL")
    command.add_argument("--second", required=True, help="the second reader, as QWEN_CASCADE")
    command.add_argument("--svg", type=Path, metavar="FILE", help="write a picture")
    arguments = command.parse_args(argv)
    try:
        families = read_families(arguments.folder)
        settings = load_settings({"QWEN_CASCADE": arguments.second})
        backend = create_second_backend(settings)
        assert backend is not None
        with model_reader(arguments.model, {}) as reader:
            first = read_with_bar(families, reader, workers=1)
        with loaded_reader(backend, settings, Options()) as reader:
            second = read_with_bar(families, reader, workers=1)
    except (SampleError, ReaderError, SettingsError, ModelLoadError) as error:
        print(error, file=sys.stderr)
        return 1
    points = curve(first, second)
    print(table(points))
    if arguments.svg is not None:
        arguments.svg.write_text(picture(points), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
