"""The command-line arguments that choose a reader.

`evaluate.py` and `constraints.py` share them. A reader is open only within its context.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from evaluation.accuracy.predictions import ScoredFamilies
from evaluation.accuracy.readers.base import (
    Reader,
    read_all,
    service_reader,
)
from qwen_captcha.samples import Family

DEFAULT_URL = "http://127.0.0.1:5000"


def add_reader_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments for the folder, the reader and its number of workers."""
    command.add_argument("folder", type=Path, help="labelled captchas")
    choose_reader(command)


def choose_reader(command: argparse.ArgumentParser) -> None:
    """Add the arguments for the reader and its number of workers."""
    reader = command.add_mutually_exclusive_group()
    reader.add_argument("--url", default=DEFAULT_URL, help="root of a running service")
    reader.add_argument("--model", help="bundled, a folder or a hub name, run in this process")
    command.add_argument("--workers", type=_workers, default=1, help="images read at a time")


def _workers(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 256):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 256")
    return int(text)


def open_reader(
    arguments: argparse.Namespace, options: Mapping[str, str]
) -> AbstractContextManager[Reader]:
    """Open the reader that the arguments name.

    Raises:
        ReaderError: On entering the context, if the reader is missing or not ready.
    """
    if arguments.model is None:
        return service_reader(arguments.url, arguments.workers, options)
    # Imported here: it needs the packages of the service, which `--url` does not.
    from evaluation.accuracy.readers.model import model_reader

    return model_reader(arguments.model, options)


def read_with_bar(families: Sequence[Family], reader: Reader, workers: int) -> ScoredFamilies:
    """Read every image, with a progress bar.

    Raises:
        ReaderError: The reader cannot continue.
    """
    images = sum(len(family.samples) for family in families)
    # `disable=None`: no bar where the output is not a terminal.
    with tqdm(total=images, unit="image", desc=reader.name, disable=None, leave=False) as bar:
        return read_all(families, reader, workers, bar.update)
