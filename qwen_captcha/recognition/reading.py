"""What is asked of an engine, and what it answers, as plain data.

Invariant: importable without torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

from qwen_captcha.recognition.calibration import Calibration
from qwen_captcha.recognition.constraints import UNRESTRICTED, DecodingConstraints


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded model can do.

    Attributes:
        follows_prompts: It obeys a free instruction; otherwise prompts have no effect.
        answers_questions: It can answer what a captcha asks instead of transcribing it.
        crops_to_text: It is to be shown what `crop.crop_to_text` leaves of an image.
        stretch: Horizontal scale of the image before it is resized to whole cells.
        token_probabilities: It reports the probabilities of its tokens.
        calibration: Turns these into the probability of being right; None where there is none.
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
        constraints: What the response may look like.
        deadline: Time of the monotonic clock at which the request that asked gives up.
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
            place; where the engine can tell, of the text in either case of its letters.
    """

    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """What a model said about one image.

    Attributes:
        raw_response: The text, special tokens removed, otherwise untouched.
        log_probability: Natural log of the probability of the whole token sequence, the end
            token included (the sum over the generated tokens); None where the engine gives none.
            Of all that the model could say, also where constraints did not allow all.
        complete: The model ended by itself and was not cut at `max_new_tokens`.
        tokens: What `raw_response` consists of, the end token last if there is one; empty where
            the engine tells nothing about single tokens.
        alternatives: Other outputs, the most probable first, without alternatives of their own.
    """

    raw_response: str
    log_probability: float | None
    complete: bool
    tokens: tuple[TokenLogprob, ...] = ()
    alternatives: tuple[GenerationOutput, ...] = ()
