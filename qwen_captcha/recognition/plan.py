"""The plan of one request with one model: prompt, constraints and the options that apply.

    plan = plan_recognition(Options(kind=Kind.DIGITS), backend.capabilities)
    [output] = backend.read([plan.request(image, max_new_tokens=32)])
    answer = answer_from_output(output, plan)

A plan is made once for each request and model. The request to the model and the answer use the same
plan.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from PIL import Image

from qwen_captcha.images.crop import crop_to_text
from qwen_captcha.images.resize import stretched
from qwen_captcha.recognition.constraints import DecodingConstraints, constraints_for
from qwen_captcha.recognition.options import Options
from qwen_captcha.recognition.prompts import prompt_for
from qwen_captcha.recognition.reading import Capabilities, GenerationRequest

PROMPT_IGNORED = "prompt had no effect: the loaded model does not follow instructions."


@dataclass(frozen=True, slots=True)
class RecognitionPlan:
    """The plan of one request with one model.

    Attributes:
        options: The options that apply: without a prompt where the model follows none.
        capabilities: The capabilities of the model.
        prompt: The whole instruction for the model.
        constraints: The texts that the response may be.
        warnings: Sentences about options that have no effect on this model.
    """

    options: Options
    capabilities: Capabilities
    prompt: str
    constraints: DecodingConstraints
    warnings: tuple[str, ...]

    def request(
        self, image: Image.Image, max_new_tokens: int, deadline: float = math.inf
    ) -> GenerationRequest:
        """Return the request to the model for one decoded image.

        Args:
            image: RGB image.
            max_new_tokens: Upper bound of generated tokens, the end token included.
            deadline: Time of the monotonic clock at which the request times out.
        """
        shown = image_shown(image, self.capabilities)
        return GenerationRequest(shown, self.prompt, max_new_tokens, self.constraints, deadline)


def plan_recognition(options: Options, capabilities: Capabilities) -> RecognitionPlan:
    """Return the plan for a request.

    Args:
        options: The options of the request.
        capabilities: The capabilities of the loaded model.

    Raises:
        InvalidOption: No character is left that is allowed by both charset and kind.
    """
    follows_prompts = capabilities.follows_prompts
    ignored = options.prompt is not None and not follows_prompts
    if ignored:
        options = replace(options, prompt=None)
    return RecognitionPlan(
        options=options,
        capabilities=capabilities,
        prompt=prompt_for(options),
        constraints=constraints_for(options, follows_prompts=follows_prompts),
        warnings=(PROMPT_IGNORED,) if ignored else (),
    )


def image_shown(image: Image.Image, capabilities: Capabilities) -> Image.Image:
    """Return an image as the model was trained: cropped to its text, stretched, or unchanged."""
    part = crop_to_text(image) if capabilities.crops_to_text else image
    return stretched(part, capabilities.stretch)
