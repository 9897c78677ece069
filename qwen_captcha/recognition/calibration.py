"""The calibration of a checkpoint: from log-probabilities to the probability of a right answer.

A confidence is from 0 to 1 and never decreases as the log-probabilities increase.

The form was chosen by fitting on rendered captchas and testing on harder ones and on those of real
generators. The log-odds of the whole answer and of its weakest token generalized to them; the
number of characters did not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

CALIBRATION = "calibration.json"
# Probabilities nearer to 0 or 1 are rounding errors of float32.
MIN_PROBABILITY = 1e-6


class CalibrationError(Exception):
    """The file of a calibration cannot be used; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The log-probabilities from which a confidence is computed.

    Attributes:
        whole: Natural log of the probability of all outputs that make the answer.
        weakest: Natural log of the least probability of a token, at least `whole`.
    """

    whole: float
    weakest: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Log-odds of being right, linear in those of the evidence; slopes are not negative."""

    bias: float
    whole: float
    weakest: float

    def probability(self, evidence: Evidence) -> float:
        """Return the probability of being right."""
        log_odds = (
            self.bias
            + self.whole * log_odds_of(evidence.whole)
            + self.weakest * log_odds_of(evidence.weakest)
        )
        # tanh does not overflow for any curve.
        return 0.5 + 0.5 * math.tanh(log_odds / 2)


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve for each kind of answer, and one for kinds without their own."""

    default: Curve
    kinds: Mapping[str, Curve]

    def confidence(self, kind: str, evidence: Evidence) -> float:
        """Return the probability that an answer of a kind is right."""
        return self.kinds.get(kind, self.default).probability(evidence)

    def as_json(self, fitted_on: Mapping[str, object]) -> str:
        """Return the file's content, with a description of how it was made."""
        content = {
            "default": asdict(self.default),
            "kinds": {kind: asdict(curve) for kind, curve in sorted(self.kinds.items())},
            "fitted_on": fitted_on,
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: Path, fitted_on: Mapping[str, object]) -> None:
        """Write the file into a checkpoint's folder."""
        (folder / CALIBRATION).write_text(self.as_json(fitted_on), encoding="utf-8")


def read_calibration(folder: Path) -> Calibration | None:
    """Return the calibration of a checkpoint, None where it has none.

    Raises:
        CalibrationError: Its file is malformed.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Calibration(
            _curve(content["default"]),
            {str(kind): _curve(curve) for kind, curve in content["kinds"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(
            f"{CALIBRATION} of {folder.name} is malformed; write it with "
            "`python -m training.calibrate`, or remove it to serve uncalibrated confidences."
        ) from error


def log_odds_of(log_probability: float) -> float:
    """Return log(p / (1 - p)) of a probability, given by its natural log, as a finite value."""
    probability = min(max(math.exp(log_probability), MIN_PROBABILITY), 1 - MIN_PROBABILITY)
    return math.log(probability / (1 - probability))


def _curve(fields: Mapping[str, object]) -> Curve:
    curve = Curve(**{name: float(str(value)) for name, value in fields.items()})
    if not all(map(math.isfinite, asdict(curve).values())) or min(curve.whole, curve.weakest) < 0:
        raise ValueError("a curve must be finite and must not fall")
    return curve
