"""Requests to an engine, its outputs and its capabilities, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from qwen_captcha.recognition.calibration import Calibration
from qwen_captcha.recognition.constraints import UNRESTRICTED, DecodingConstraints


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a loaded model.

    Attributes:
        follows_prompts: It follows a free instruction; otherwise prompts have no effect.
        answers_questions: It can answer the question of a captcha instead of transcribing it.
        crops_to_text: It reads images cropped by `crop.crop_to_text`.
        stretch: Horizontal scale of the image before it is resized to whole cells.
        token_probabilities: It reports the probabilities of its tokens.
        calibration: Converts these to the probability of a right answer; None where there is none.
    """

    follows_prompts: bool = True
    answers_questions: bool = True
    crops_to_text: bool = False
    stretch: float = 1.0
    token_probabilities: bool = True
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One image to read.

    Attributes:
        image: RGB image, any size whose aspect ratio is at most `decode.MAX_ASPECT_RATIO`.
        prompt: The whole instruction for the model.
        max_new_tokens: Upper bound of generated tokens, the end token included.
        constraints: The texts that the response may be.
        deadline: Time of the monotonic clock at which the request times out.
    """

    image: Image.Image
    prompt: str
    max_new_tokens: int
    constraints: DecodingConstraints = UNRESTRICTED
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One token of a response, or several that spell one character together.

    Attributes:
        text: Whole characters; empty for the end token.
        log_probability: Natural log of its probability among the tokens that were allowed at its
            position; with some engines, of the text in either letter case.
    """

    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """The output of a model for one image.

    Attributes:
        raw_response: The text, special tokens removed, otherwise unchanged.
        log_probability: Natural log of the probability of the whole token sequence, the end
            token included (the sum over the generated tokens), among all texts, also those that
            the constraints do not allow. None where the engine reports none.
        complete: The model ended by itself and was not cut at `max_new_tokens`.
        tokens: The tokens of `raw_response`, the end token last if there is one; empty where the
            engine reports no single tokens.
        alternatives: Other outputs, the most probable first, without alternatives of their own.
    """

    raw_response: str
    log_probability: float | None
    complete: bool
    tokens: tuple[TokenLogprob, ...] = ()
    alternatives: tuple[GenerationOutput, ...] = ()


def either_case_log_probability(log_probability: float, tokens: Sequence[TokenLogprob]) -> float:
    """Return the log-probability of an output with its letters in either case, if that is known.

    Those of the tokens are relative to the allowed tokens, in either case: their sum may be more.

    Args:
        log_probability: Of the output, as it is spelled.
        tokens: Of the output; none where the engine reports none.
    """
    if not tokens:
        return log_probability
    return max(log_probability, sum(token.log_probability for token in tokens))
