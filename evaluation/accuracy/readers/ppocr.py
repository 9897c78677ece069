"""PP-OCRv6 small of rapidocr, a general text recognizer, as a reader of the same images.

The whole image is read as one line, without text detection. Sums are computed from the
transcription.
"""

from __future__ import annotations

import math
import time
from importlib.metadata import version

from evaluation.accuracy.readers.base import ReaderError, Reply
from evaluation.accuracy.readers.transcript import transcript_reply
from evaluation.services.client import Answer
from qwen_captcha.backends.ppocr.backend import MODEL_NAME, find_model
from qwen_captcha.errors import CaptchaServiceError, ModelLoadError
from qwen_captcha.images.decode import ImageLimits, decode_image
from qwen_captcha.recognition.constraints import UNRESTRICTED

_LIMITS = ImageLimits(max_image_pixels=50_000_000, max_frames=500)


class PPOCRReader:
    """PP-OCRv6 small in this process.

    Args:
        threads: CPU threads of one call.

    Raises:
        ReaderError: rapidocr is not installed.
    """

    def __init__(self, threads: int = 1) -> None:
        try:
            model = find_model()
        except ModelLoadError as error:
            raise ReaderError(str(error)) from error
        # Imported here: it needs onnxruntime, whose absence `find_model` reports.
        from qwen_captcha.backends.ppocr.recognizer import Recognizer

        self.name = f"{MODEL_NAME} of rapidocr {version('rapidocr')}"
        self._recognizer = Recognizer(model, threads)

    def read(self, image: bytes, content_type: str, kind: str) -> Reply:
        """Read one image; the confidence is the text's probability."""
        start = time.perf_counter()
        try:
            raw_text, confidence = self._read(image)
        except CaptchaServiceError as error:
            latency_s = time.perf_counter() - start
            return Reply(Answer("", 0.0, False, None, error.error_type), latency_s)
        latency_s = time.perf_counter() - start
        return transcript_reply(raw_text, confidence, kind, latency_s)

    def transcribe(self, image: bytes) -> str:
        """Return the text of one image file; sums are not computed.

        Raises:
            CaptchaServiceError: The image cannot be decoded.
        """
        return self._read(image)[0]

    def _read(self, image: bytes) -> tuple[str, float]:
        decoded = decode_image(image, _LIMITS)
        [transcript] = self._recognizer.read([decoded], [UNRESTRICTED])
        text = "".join(character.text for character in transcript.characters).replace(" ", "")
        return text, min(1.0, math.exp(transcript.log_probability))
