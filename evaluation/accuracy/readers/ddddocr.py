"""ddddocr as a reader of the same images.

It is used in its most accurate way: with `png_fix`, and with sums computed from its transcription.
"""

from __future__ import annotations

import time
import warnings
from importlib import import_module
from importlib.metadata import version
from typing import Any

from evaluation.accuracy.readers.base import ReaderError, Reply
from evaluation.accuracy.readers.transcript import transcript_reply
from evaluation.services.client import Answer

MISSING = (
    "ddddocr is not installed: python -m pip install -r requirements_compare.txt "
    "(Python packages of about 110 MB)."
)


class DdddocrReader:
    """One of ddddocr's models.

    The confidence is ddddocr's own: the mean over the image's columns of the largest probability,
    and not a probability of the whole text.

    Args:
        beta: Whether to use its larger model instead of the default one.

    Raises:
        ReaderError: ddddocr is not installed.
    """

    def __init__(self, *, beta: bool) -> None:
        try:
            module: Any = import_module("ddddocr")
            exceptions: Any = import_module("ddddocr.utils.exceptions")
        except ImportError as error:
            raise ReaderError(MISSING) from error
        self.name = f"ddddocr {version('ddddocr')}{' beta' if beta else ''}"
        self._engine = module.DdddOcr(show_ad=False, beta=beta)
        self._input_errors = (exceptions.DDDDOCRError, module.DdddOcrInputError)

    def read(self, image: bytes, content_type: str, kind: str) -> Reply:
        """Read one image; the time is that of the text alone, without its list of probabilities."""
        start = time.perf_counter()
        try:
            raw_text = self.transcribe(image)
            latency_s = time.perf_counter() - start
            confidence = self._confidence(image)
        except self._input_errors:
            latency_s = time.perf_counter() - start
            return Reply(Answer("", 0.0, False, None, "undecodable_image"), latency_s)
        return transcript_reply(raw_text, confidence, kind, latency_s)

    def transcribe(self, image: bytes) -> str:
        """Return the raw output; sums are not computed, and ddddocr's errors are raised."""
        return str(self._classify(image))

    def _confidence(self, image: bytes) -> float:
        found = self._classify(image, probability=True)
        # A mean of numbers rounded to float32 may exceed 1.
        return min(1.0, float(found["confidence"]))

    def _classify(self, image: bytes, *, probability: bool = False) -> Any:
        # Pillow warns about ddddocr's handling of palettes, which a caller cannot change.
        with warnings.catch_warnings(action="ignore"):
            return self._engine.classification(image, png_fix=True, probability=probability)
