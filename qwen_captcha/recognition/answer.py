"""The answer of the service to one image, made from the output of the model.

Without success `text` is empty, so that a client never submits a refusal of the model or an error
message. `warnings` names each option that had no effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.recognition.candidates import confidence_of, find_candidates
from qwen_captcha.recognition.details import Details, details_of
from qwen_captcha.recognition.extraction import ExtractedAnswer
from qwen_captcha.recognition.options import Kind, Options
from qwen_captcha.recognition.plan import RecognitionPlan
from qwen_captcha.recognition.reading import GenerationOutput

NOT_FOR_ARITHMETIC = "charset and length had no effect: they do not concern arithmetic."
NOT_RESTRICTED = "the text is outside charset, length or kind: the engine does not restrict it."
CONFIDENCE_UNKNOWN = "confidence is unknown: the engine gives no token probabilities."
BLANK = "The image shows no characters: it is of one color or noise."
NONE_OF_COLORS = "The image shows no characters of the colors asked for."
RESPONSE_CUT = "the response of the model was cut at MAX_NEW_TOKENS tokens."


class CacheUse(StrEnum):
    """Whether an answer was cached or shared (hit), or the model read the image for it (miss)."""

    HIT = "hit"
    MISS = "miss"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one image.

    Attributes:
        text: The text to type; empty without success.
        confidence: Probability that `text` is right, from 0 to 1; 0 without success.
        success: Whether there is a usable text.
        raw_response: The model's output, unchanged; empty where the model read nothing.
        error_type: Slug of the error, None with success.
        error: One sentence about the error, None with success.
        warnings: Sentences about options that had no effect and figures that are unknown.
        low_confidence: `confidence` is below `min_confidence`.
        details: Confidence of each character and alternatives, None where they were not requested.
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


def answer_from_output(output: GenerationOutput, plan: RecognitionPlan) -> Answer:
    """Return the answer in an output of the model, by the plan of the request."""
    candidates = find_candidates(output, plan)
    if not candidates:
        return Answer(
            text="",
            confidence=0.0,
            success=False,
            raw_response=output.raw_response,
            error_type="no_answer",
            error="The model gave no usable answer.",
            warnings=_warnings(output, None, plan),
        )
    best = candidates[0]
    confidence = confidence_of(best, plan.capabilities.calibration)
    return Answer(
        text=best.extracted.text,
        confidence=confidence,
        success=True,
        raw_response=best.output.raw_response,
        warnings=_warnings(best.output, best.extracted, plan),
        low_confidence=confidence < plan.options.min_confidence,
        details=details_of(candidates, confidence) if plan.options.details else None,
    )


def blank_answer(options: Options) -> Answer:
    """Return the answer to an image without characters, which no model reads."""
    return Answer(
        text="",
        confidence=0.0,
        success=False,
        raw_response="",
        error_type="no_answer",
        error=NONE_OF_COLORS if options.colors else BLANK,
    )


def failed_answer(error: CaptchaServiceError) -> Answer:
    """Return the answer to an image that cannot be read."""
    return Answer(
        text="",
        confidence=0.0,
        success=False,
        raw_response="",
        error_type=error.error_type,
        error=error.message,
    )


def _warnings(
    output: GenerationOutput, extracted: ExtractedAnswer | None, plan: RecognitionPlan
) -> tuple[str, ...]:
    """Return the warnings of an answer, those of its plan first."""
    options = plan.options
    computed = extracted.computed if extracted else options.kind is Kind.MATH
    restricted = options.charset is not None or options.length is not None
    outside = extracted is not None and not computed and not plan.constraints.allows(extracted.text)
    conditions = {
        NOT_FOR_ARITHMETIC: restricted and computed,
        NOT_RESTRICTED: outside,
        CONFIDENCE_UNKNOWN: output.log_probability is None,
        RESPONSE_CUT: not output.complete,
    }
    found = (sentence for sentence, applies in conditions.items() if applies)
    return (*plan.warnings, *found)


def probabilities(answer: Answer) -> dict[str, object]:
    """Return an answer in the compact form of ddddocr's `probability`.

    Joining the most probable character of each row gives the text, as in the loop of ddddocr's
    documentation. The model has a probability for the whole text only. Each row therefore holds
    the same share, and the product over the rows is the confidence.
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
