r"""Measure the accuracy on labelled captchas, and the calibration of the confidence.

    python -m evaluation.evaluate FOLDER [--url URL | --model PATH] [--against ddddocr rapidocr] \
        [--json FILE] [--html FILE]

FOLDER has one of the layouts of `samples.py`. All readers of a run read the same images. The table
is printed before a file is written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from evaluation.accuracy.comparison import Competitor, compare
from evaluation.accuracy.predictions import ScoredFamilies
from evaluation.accuracy.readers.arguments import (
    add_reader_arguments,
    open_reader,
    read_with_bar,
)
from evaluation.accuracy.readers.base import Reader, ReaderError
from evaluation.accuracy.report import (
    Report,
    Source,
    as_json,
    count_warnings,
)
from evaluation.accuracy.summary import summarise
from evaluation.accuracy.table import render
from evaluation.load.machine import commit_of
from evaluation.services.service_process import PROJECT
from qwen_captcha.samples import (
    Family,
    SampleError,
    read_families,
)


def evaluate(arguments: argparse.Namespace) -> Report:
    """Read the folder with every reader that the command line asks for.

    Raises:
        SampleError: The folder holds no labelled captchas.
        ReaderError: A reader is missing, not ready, or fails.
    """
    families = read_families(arguments.folder)
    options = dict(arguments.option)
    other_readers = _competitors(arguments.against)
    with open_reader(arguments, options) as reader:
        scored = read_with_bar(families, reader, arguments.workers)
    source = Source(
        folder=str(arguments.folder),
        model=reader.name,
        url=None if arguments.model else arguments.url,
        options=options,
        workers=arguments.workers,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit_of(PROJECT),
    )
    competitors = [_competitor(reader, families, scored) for reader in other_readers]
    return Report(source, scored, summarise(scored), count_warnings(scored), competitors)


def _competitors(names: Sequence[str]) -> list[Reader]:
    """Return the readers to compare with; a missing one is reported before any reading."""
    readers: list[Reader] = []
    if "ddddocr" in names:
        from evaluation.accuracy.readers.ddddocr import DdddocrReader

        readers += [DdddocrReader(beta=False), DdddocrReader(beta=True)]
    if "rapidocr" in names:
        from evaluation.accuracy.readers.ppocr import PPOCRReader

        readers.append(PPOCRReader())
    return readers


def _competitor(reader: Reader, families: Sequence[Family], ours: ScoredFamilies) -> Competitor:
    # One image at a time: ddddocr does not document thread safety.
    return compare(reader.name, ours, read_with_bar(families, reader, workers=1))


def heading(report: Report) -> str:
    """Return the line above the table."""
    source = report.source
    options = "".join(f", {name}={value}" for name, value in source.options.items())
    images = report.summary.overall.figures.images
    return f"{images} images of {source.folder}, read by {source.model}{options}"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    command = argparse.ArgumentParser(
        prog="python -m evaluation.evaluate",
        description="Measure the accuracy on labelled captchas, and the calibration.",
    )
    add_reader_arguments(command)
    command.add_argument(
        "--option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="request option of every image, such as kind=digits; may be repeated",
    )
    command.add_argument(
        "--against",
        choices=["ddddocr", "rapidocr"],
        nargs="+",
        default=(),
        help="read with both models of ddddocr, with PP-OCRv6 small of rapidocr",
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write figures and predictions")
    command.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures")
    command.add_argument(
        "--mistakes",
        choices=["tune", "all", "none"],
        help="families whose mistakes the page shows; default: tune if the manifest has it, "
        "else all",
    )
    return command


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    return name, value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    command = parser()
    arguments = command.parse_args(argv)
    if arguments.html is not None and find_spec("matplotlib") is None:
        command.error("--html needs matplotlib: pip install -r requirements_dev.txt")
    try:
        report = evaluate(arguments)
        print(f"{heading(report)}\n\n{render(report.summary, report.competitors)}")
        for warning, count in report.warnings.items():
            print(f"{count} replies warn: {warning}")
        if arguments.json is not None:
            content = json.dumps(as_json(report), ensure_ascii=False, indent=1) + "\n"
            arguments.json.write_text(content, encoding="utf-8")
        if arguments.html is not None:
            # Imported here: matplotlib takes a second.
            from evaluation.accuracy.html_report import render_page

            page = render_page(report, arguments.mistakes)
            arguments.html.write_text(page, encoding="utf-8")
    except (SampleError, ReaderError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
