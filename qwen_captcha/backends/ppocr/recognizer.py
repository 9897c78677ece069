"""PP-OCRv6 small: from images to the probabilities of characters in columns, and to text.

The network reads lines of text, 48 pixels high, and gives a distribution over 18,710 classes for
every 8 pixels of width: a blank, 18,708 characters and the space. Removing repetitions and blanks
from a sequence of classes gives the text (CTC).

Source: `rapidocr/ch_ppocr_rec/main.py` and `utils.py` of rapidocr 3.10.0 (Apache-2.0).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Case

HEIGHT = 48
# Narrower images are padded with grey, as in the training of the network.
MIN_WIDTH = 320
# Wider images are compressed to this width, which gives 400 columns.
MAX_WIDTH = 3200
BLANK = 0
# Keeps logarithms finite.
MIN_PROBABILITY = 1e-12

Floats = NDArray[np.float32]


class Character(NamedTuple):
    """One character of a text, and the natural log of its probability among the allowed ones."""

    text: str
    log_probability: float


class Transcript(NamedTuple):
    """A text that was read.

    Attributes:
        characters: Its characters.
        log_probability: Natural log of its probability among all texts.
    """

    characters: tuple[Character, ...]
    log_probability: float


class Recognizer:
    """The network and its characters.

    Args:
        model: The ONNX file, whose metadata lists the characters.
        threads: CPU threads of one call.
    """

    def __init__(self, model: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(model), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        listed = self._session.get_modelmeta().custom_metadata_map["character"]
        self._characters = ("", *listed.splitlines(), " ")
        self._cases = _pairs_of_cases(self._characters)  # (P, 2)

    def read(
        self, images: Sequence[Image.Image], constraints: Sequence[DecodingConstraints]
    ) -> list[Transcript]:
        """Return the text of each RGB image, read as one line and in one call of the network.

        The charset and the case of the constraints are applied; the length is not.
        """
        lines = [as_line(image) for image in images]
        batch = pad_together(lines)  # (B, 3, 48, W)
        [probabilities] = self._session.run(None, {self._input: batch})  # (B, W / 8, classes)
        return [
            self._decode(columns, constraint)
            for columns, constraint in zip(probabilities, constraints, strict=True)
        ]

    def _decode(self, columns: Floats, constraints: DecodingConstraints) -> Transcript:
        """Return the text of one image from its columns' probabilities, (columns, classes)."""
        if constraints.case is not Case.KEEP:
            columns = self._either_case(columns)
        allowed = columns
        if constraints.charset is not None:
            mask = np.array(
                [not text or text in constraints.charset for text in self._characters], np.float32
            )
            allowed = columns * mask
            allowed /= np.maximum(allowed.sum(axis=1, keepdims=True), MIN_PROBABILITY)
        best = allowed.argmax(axis=1)  # (columns,)
        classes: list[int] = []
        scores: list[float] = []
        for column, class_ in enumerate(best.tolist()):
            if class_ == BLANK:
                continue
            score = float(allowed[column, class_])
            if column and best[column - 1] == class_:
                scores[-1] = max(scores[-1], score)
            else:
                classes.append(class_)
                scores.append(score)
        return Transcript(
            tuple(
                Character(self._characters[class_], math.log(max(score, MIN_PROBABILITY)))
                for class_, score in zip(classes, scores, strict=True)
            ),
            log_probability_of(classes, columns),
        )

    def _either_case(self, columns: Floats) -> Floats:
        """Return columns with each capital letter's probability added to its small letter."""
        small, capital = self._cases.T
        merged = columns.copy()
        merged[:, small] += merged[:, capital]
        merged[:, capital] = 0.0
        return merged


def as_line(image: Image.Image) -> Floats:
    """Return an RGB image as a line of text: BGR, (3, 48, W), from -1 to 1."""
    width = math.ceil(HEIGHT * image.width / image.height)
    resized = image.resize((min(max(1, width), MAX_WIDTH), HEIGHT), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized, np.float32)[:, :, ::-1]  # (48, W, 3)
    return pixels.transpose(2, 0, 1) / 127.5 - 1.0


def pad_together(lines: Sequence[Floats]) -> Floats:
    """Return lines padded to the width of the widest one, (B, 3, 48, W)."""
    width = max(MIN_WIDTH, *(line.shape[2] for line in lines))
    batch = np.zeros((len(lines), 3, HEIGHT, width), np.float32)
    for row, line in zip(batch, lines, strict=True):
        row[:, :, : line.shape[2]] = line
    return batch


def log_probability_of(classes: Sequence[int], columns: Floats) -> float:
    """Return the natural log of the probability of a text: of all its alignments to the columns.

    Args:
        classes: The classes of its characters.
        columns: Probabilities, (columns, classes).

    Source: Graves et al., "Connectionist Temporal Classification" (2006), section 4.1.
    """
    path = [BLANK]
    for class_ in classes:
        path += [class_, BLANK]
    emitted = columns[:, path].astype(np.float64)  # (columns, 2 L + 1)
    # A blank between two equal characters cannot be skipped.
    skips = np.array(
        [index > 1 and c != BLANK and c != path[index - 2] for index, c in enumerate(path)]
    )
    forward = np.zeros(len(path))
    forward[:2] = emitted[0, :2]
    log_scale = 0.0
    for column in emitted[1:]:
        moved = forward.copy()
        moved[1:] += forward[:-1]
        moved[2:] += np.where(skips[2:], forward[:-2], 0.0)
        forward = moved * column
        total = forward.sum()
        if total <= 0.0:
            return math.log(MIN_PROBABILITY)
        forward /= total
        log_scale += math.log(total)
    return log_scale + math.log(max(float(forward[-2:].sum()), MIN_PROBABILITY))


def _pairs_of_cases(characters: Sequence[str]) -> NDArray[np.int64]:
    """Return the classes of each letter's small and capital form, (pairs, 2)."""
    classes = {text: class_ for class_, text in enumerate(characters)}
    pairs = [
        (class_, classes[text.upper()])
        for text, class_ in classes.items()
        if text.upper() != text and text.upper() in classes and text.upper().lower() == text
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)
