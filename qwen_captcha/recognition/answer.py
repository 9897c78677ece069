"""Answer: what the service says about one image, made from what the model said.

Responsible for: success and warnings of an answer, and putting it together. Invariant: a caller who
takes `text` on success alone never gets a refusal, chatter or an error message, and an option that
had no effect is always named in `warnings`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from PIL import Image

from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.images.crop import crop_to_text
from qwen_captcha.images.resize import stretched
from qwen_captcha.recognition.candidates import find_candidates
from qwen_captcha.recognition.confidence import confidence_of
from qwen_captcha.recognition.constraints import constraints_for
from qwen_captcha.recognition.details import Details, details_of
from qwen_captcha.recognition.extraction import ExtractedAnswer
from qwen_captcha.recognition.options import Kind, Options
from qwen_captcha.recognition.reading import Capabilities, GenerationOutput

PROMPT_IGNORED = "prompt had no effect: the loaded model does not follow instructions."
NOT_FOR_ARITHMETIC = "charset and length had no effect: they do not concern arithmetic."
NOT_RESTRICTED = "the text is outside charset, length or kind: the engine does not restrict it."
CONFIDENCE_UNKNOWN = "confidence is unknown: the engine gives no token probabilities."
BLANK = "The image shows no characters: it is of one color or noise."
NONE_OF_COLORS = "The image shows no characters of the colors asked for."
RESPONSE_CUT = "the response of the model was cut at MAX_NEW_TOKENS tokens."


class CacheUse(StrEnum):
    """Whether an answer took a run of the model of its own."""

    HIT = "hit"
    MISS = "miss"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service says about one image.

    Attributes:
        text: What a person would type; empty without success.
        confidence: Probability that `text` is right, from 0 to 1; 0 without success.
        success: Whether there is a usable text.
        raw_response: What the model said, untouched; empty where it was not asked.
        error_type: Slug of what went wrong, None with success.
        error: One sentence about what went wrong, None with success.
        warnings: Sentences about what the caller asked for and did not get.
        low_confidence: `confidence` is below what the caller asked for.
        details: What the caller asked to know besides, None where nothing.
        model: Name of the model that gave the answer, None where there is only one.
        cache: Whether the answer was cached for an identical request or shared with one.
        queue_s: Seconds that the image waited for the model; 0 where the answer was cached.
        inference_s: Seconds that the model took; 0 where the answer was cached.
    """

    text: str
    confidence: float
    success: bool
    raw_response: str
    error_type: str | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()
    low_confidence: bool = False
    details: Details | None = None
    model: str | None = None
    cache: CacheUse = CacheUse.OFF
    queue_s: float = field(default=0.0, compare=False)
    inference_s: float = field(default=0.0, compare=False)


def obeyed_options(options: Options, capabilities: Capabilities) -> Options:
    """Return the options that the model can follow: without a prompt where it follows none."""
    return options if capabilities.follows_prompts else replace(options, prompt=None)


def image_shown(image: Image.Image, capabilities: Capabilities) -> Image.Image:
    """Return what the model is shown of an image: its text alone where it was trained so."""
    part = crop_to_text(image) if capabilities.crops_to_text else image
    return stretched(part, capabilities.stretch)


def answer_from_output(
    output: GenerationOutput, asked: Options, capabilities: Capabilities
) -> Answer:
    """Return the answer to a request from what the model said about its image.

    Args:
        output: What it said.
        asked: What the caller asked for.
        capabilities: What the model can do.
    """
    options = obeyed_options(asked, capabilities)
    candidates = find_candidates(output, options, capabilities)
    if not candidates:
        return Answer(
            text="",
            confidence=0.0,
            success=False,
            raw_response=output.raw_response,
            error_type="no_answer",
            error="The model gave no usable answer.",
            warnings=_warnings(output, None, asked, capabilities),
        )
    best = candidates[0]
    confidence = confidence_of(best, capabilities.calibration)
    return Answer(
        text=best.extracted.text,
        confidence=confidence,
        success=True,
        raw_response=best.output.raw_response,
        warnings=_warnings(best.output, best.extracted, asked, capabilities),
        low_confidence=confidence < options.min_confidence,
        details=details_of(candidates, confidence) if options.details else None,
    )


def blank_answer(options: Options) -> Answer:
    """Return the answer for an image that shows nothing, which no model is asked about."""
    return Answer(
        text="",
        confidence=0.0,
        success=False,
        raw_response="",
        error_type="no_answer",
        error=NONE_OF_COLORS if options.colors else BLANK,
    )


def failed_answer(error: CaptchaServiceError) -> Answer:
    """Return the answer for an image that could not be read."""
    return Answer(
        text="",
        confidence=0.0,
        success=False,
        raw_response="",
        error_type=error.error_type,
        error=error.message,
    )


def _warnings(
    output: GenerationOutput,
    extracted: ExtractedAnswer | None,
    options: Options,
    capabilities: Capabilities,
) -> tuple[str, ...]:
    """Return what the caller has to know beyond the answer."""
    constraints = constraints_for(options, follows_prompts=capabilities.follows_prompts)
    computed = extracted.computed if extracted else options.kind is Kind.MATH
    restricted = options.charset is not None or options.length is not None
    outside = extracted is not None and not computed and not constraints.allows(extracted.text)
    conditions = {
        PROMPT_IGNORED: options.prompt is not None and not capabilities.follows_prompts,
        NOT_FOR_ARITHMETIC: restricted and computed,
        NOT_RESTRICTED: outside,
        CONFIDENCE_UNKNOWN: output.log_probability is None,
        RESPONSE_CUT: not output.complete,
    }
    return tuple(sentence for sentence, applies in conditions.items() if applies)


def probabilities(answer: Answer) -> dict[str, object]:
    """Return the compact form of what ddddocr calls `probability`.

    The loop of ddddocr's documentation, which joins the most probable character of each row,
    gives the text. The model judges whole outputs, so a row holds the same share of the
    confidence for each character: the product over the rows is the confidence.
    """
    characters = sorted(set(answer.text))
    share = answer.confidence ** (1 / max(1, len(answer.text)))
    # Never 0, or the most probable character of a row would be the empty one.
    share = max(share, 1e-9)
    return {
        "text": answer.text,
        "confidence": answer.confidence,
        "charsets": ["", *characters],
        "probability": [
            [0.0, *(share if character == read else 0.0 for character in characters)]
            for read in answer.text
        ],
    }
