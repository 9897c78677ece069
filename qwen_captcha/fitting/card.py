"""The card of a fitted checkpoint: its training data and its measured accuracy.

It is `README.md` and `training.json` of the folder. The figures are of images that were not learnt
from; with few of them the interval is wide.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from qwen_captcha import __version__
from qwen_captcha.scores import ece, wilson_interval

# Answers under `min_confidence` are left out so that this share of the others should be right.
_WANTED = 0.95
_THRESHOLDS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)


@dataclass(frozen=True, slots=True)
class Score:
    """The accuracy of a checkpoint on some images, letter case ignored.

    Attributes:
        right: How many it reads right.
        images: How many there are.
    """

    right: int
    images: int

    def __str__(self) -> str:
        if not self.images:
            return "none"
        low, high = wilson_interval(self.right, self.images)
        share = self.right / self.images
        return f"{share:.2f} ({low:.2f} – {high:.2f}, {self.right} of {self.images})"


@dataclass(frozen=True, slots=True)
class Card:
    """The result of fitting a checkpoint.

    Attributes:
        name: Of the new checkpoint's folder.
        base: Name of the checkpoint that was fitted.
        learnt_from: Images of the user.
        left_out: Images of the user that were not used.
        new_characters: That were added to the vocabulary.
        minutes: That the training took.
        steps: Of the training.
        before: The base, on the user's images that are held out.
        after: The fitted checkpoint, on the same.
        rehearsal_before: The base, on rehearsal images that are held out.
        rehearsal_after: The fitted checkpoint, on the same.
        min_confidence: Recommended.
        ece: Calibration error on changed copies of the user's held-out images, to which the
            calibration was fitted; None where there are none.
    """

    name: str
    base: str
    learnt_from: int
    left_out: int
    new_characters: str
    minutes: float
    steps: int
    before: Score
    after: Score
    rehearsal_before: Score
    rehearsal_after: Score
    min_confidence: float
    ece: float | None

    def as_json(self) -> str:
        """Return `training.json`."""
        content = {"fitted_by": f"qwen-captcha {__version__}", **asdict(self)}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def as_markdown(self) -> str:
        """Return `README.md`."""
        added = f"- New characters: {self.new_characters}\n" if self.new_characters else ""
        return f"""\
# {self.name}

Fitted by qwen-captcha {__version__} to {self.learnt_from} captchas of one user.

| images that were held out | before | after |
|---|---|---|
| the user's | {self.before} | {self.after} |
| others, of the base's training | {self.rehearsal_before} | {self.rehearsal_after} |

Share read right, letter case ignored, with the 95 % interval.

- Base: {self.base}
- Training: {self.minutes:.1f} minutes, {self.steps} steps
- Images left out: {self.left_out}
{added}- Recommended `min_confidence`: {self.min_confidence}

Serve it: `QWEN_MODEL={self.name} qwen-captcha serve`
"""


def recommended_confidence(confidences: Sequence[float]) -> float:
    """Return the lowest round confidence above which nearly all answers should be right."""
    for threshold in _THRESHOLDS:
        answered = [confidence for confidence in confidences if confidence >= threshold]
        if answered and fmean(answered) >= _WANTED:
            return threshold
    return _THRESHOLDS[-1]


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the expected calibration error to three decimals, None without answers."""
    error = ece(confidences, right)
    return None if error is None else round(error, 3)
