"""Measure time and memory of the published 2B on a CPU, with random weights of its shape.

    python -m evaluation.published.layout /tmp/shape
    python -m evaluation.published.shape /tmp/shape
    python -m evaluation.published.shape /tmp/shape --free-gib 8

The first line writes 4.4 GB, in a process of its own so that its memory does not count. The last
one measures a machine with 8 GiB of free memory: fp32 does not fit there, and bf16 is loaded. The
results are time to ready, peak memory and seconds per captcha. Random weights rarely end an answer,
so that a captcha takes all of its tokens.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest import mock

from PIL import Image, ImageDraw

from evaluation.load.machine import peak_resident_bytes
from qwen_captcha.backends import hardware
from qwen_captcha.backends.hardware import GIB
from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.reading import GenerationRequest

# The service's defaults for a checkpoint without a range of its own.
MIN_PIXELS, MAX_PIXELS = 64_000, 360_000
# Five characters and the end.
TOKENS = 6
PROMPT = "Read the characters in this image. Answer with the characters only."


@dataclass(frozen=True, slots=True)
class Cost:
    """The measurements.

    Attributes:
        ready_s: Seconds from the start of loading to the end of the first reading, with imports.
        peak_bytes: Peak resident memory, None where the system does not report it.
        first_token_s: Seconds of a captcha with one token.
        captcha_s: Seconds of a captcha with `TOKENS` tokens.
    """

    ready_s: float
    peak_bytes: int | None
    first_token_s: float
    captcha_s: float

    def __str__(self) -> str:
        """Return the figures, one a line."""
        further_s = (self.captcha_s - self.first_token_s) / (TOKENS - 1)
        peak = "unknown" if self.peak_bytes is None else f"{self.peak_bytes / GIB:.2f} GiB"
        return (
            f"time to ready     {self.ready_s:.1f} s\n"
            f"peak memory       {peak}\n"
            f"first token       {self.first_token_s:.2f} s\n"
            f"each further one  {further_s:.2f} s\n"
            f"one captcha       {self.captcha_s:.2f} s ({TOKENS} tokens, 160x60 pixels)"
        )


def measure(folder: Path, captchas: int) -> Cost:
    """Load the checkpoint in this process and read with it."""
    backend = PyTorchBackend(
        str(folder),
        model_name="published shape",
        use_gpu=False,
        min_pixels=MIN_PIXELS,
        max_pixels=MAX_PIXELS,
    )
    start_s = time.perf_counter()
    backend.check()
    backend.load()
    _median_seconds(backend, captchas=1, tokens=TOKENS)
    ready_s = time.perf_counter() - start_s
    first_token_s = _median_seconds(backend, captchas, tokens=1)
    captcha_s = _median_seconds(backend, captchas, tokens=TOKENS)
    return Cost(ready_s, peak_resident_bytes(os.getpid()), first_token_s, captcha_s)


def _median_seconds(backend: PyTorchBackend, captchas: int, tokens: int) -> float:
    seconds = []
    for number in range(captchas):
        task = GenerationRequest(draw_captcha(f"{1234 + number}"), PROMPT, tokens)
        start_s = time.perf_counter()
        backend.read([task])
        seconds.append(time.perf_counter() - start_s)
    return median(seconds)


def draw_captcha(text: str) -> Image.Image:
    """Return the text on 160 x 60 pixels."""
    image = Image.new("RGB", (160, 60), "white")
    ImageDraw.Draw(image).text((20, 8), text, fill="navy", font_size=40)
    return image


def assumed_memory(free_gib: float | None) -> AbstractContextManager[object]:
    """Return a context in which loading assumes some free memory; None for the actual memory."""
    if free_gib is None:
        return nullcontext()
    free_bytes = int(free_gib * GIB)
    return mock.patch.object(hardware, "available_memory_bytes", return_value=free_bytes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="folder of the checkpoint")
    parser.add_argument("--captchas", type=int, default=5, help="captchas to read (5)")
    parser.add_argument("--free-gib", type=float, help="free memory to assume; else what is free")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with assumed_memory(options.free_gib):
            print(measure(options.folder, options.captchas))
    except ModelLoadError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
