from __future__ import annotations

import math

import pytest

from qwen_captcha.errors import ImageTooLarge
from qwen_captcha.recognition.answer import (
    CONFIDENCE_UNKNOWN,
    NOT_FOR_ARITHMETIC,
    NOT_RESTRICTED,
    RESPONSE_CUT,
    Answer,
    answer_from_output,
    failed_answer,
)
from qwen_captcha.recognition.charsets import DIGITS, Charset
from qwen_captcha.recognition.options import Kind, Options
from qwen_captcha.recognition.plan import PROMPT_IGNORED, plan_recognition
from qwen_captcha.recognition.reading import Capabilities, GenerationOutput

RESTRICTING = Capabilities()
BUNDLED = Capabilities(follows_prompts=False, answers_questions=False)
CERTAIN = GenerationOutput("a3b9", 0.0, complete=True)
SUM = GenerationOutput("3+5=?", 0.0, complete=True)


def test_an_answer_has_the_text_and_the_raw_response() -> None:
    reading = GenerationOutput(" 3+5=? ", math.log(0.8), complete=True)
    assert answer_from_output(reading, plan_recognition(Options(), RESTRICTING)) == Answer(
        text="8", confidence=0.8, success=True, raw_response=" 3+5=? "
    )


@pytest.mark.parametrize("raw_response", ["", "  \n", "5/0", "I'm sorry, I can't help with that."])
def test_without_a_usable_text_there_is_no_success(raw_response: str) -> None:
    output = GenerationOutput(raw_response, 0.0, complete=True)
    answer = answer_from_output(output, plan_recognition(Options(), RESTRICTING))
    assert answer == Answer(
        text="",
        confidence=0.0,
        success=False,
        raw_response=raw_response,
        error_type="no_answer",
        error="The model gave no usable answer.",
    )


def test_a_question_to_a_model_that_answers_none_has_no_answer() -> None:
    plan = plan_recognition(Options(kind=Kind.QUESTION), BUNDLED)
    answer = answer_from_output(CERTAIN, plan)
    assert (answer.success, answer.error_type, answer.raw_response) == (False, "no_answer", "a3b9")


@pytest.mark.parametrize(
    ("reading", "options", "capabilities", "warnings"),
    [
        (CERTAIN, Options(), RESTRICTING, ()),
        (CERTAIN, Options(prompt="read"), RESTRICTING, ()),
        (CERTAIN, Options(prompt="read"), BUNDLED, (PROMPT_IGNORED,)),
        (CERTAIN, Options(charset=Charset.of("ab39")), RESTRICTING, ()),
        (CERTAIN, Options(charset=DIGITS), RESTRICTING, (NOT_RESTRICTED,)),
        (CERTAIN, Options(length=(5, 6)), RESTRICTING, (NOT_RESTRICTED,)),
        (CERTAIN, Options(kind=Kind.DIGITS), RESTRICTING, (NOT_RESTRICTED,)),
        (SUM, Options(charset=DIGITS), RESTRICTING, (NOT_FOR_ARITHMETIC,)),
        (SUM, Options(length=(4, 4)), RESTRICTING, (NOT_FOR_ARITHMETIC,)),
        (SUM, Options(kind=Kind.MATH), RESTRICTING, ()),
        (
            GenerationOutput("a3b9", None, complete=True),
            Options(),
            RESTRICTING,
            (CONFIDENCE_UNKNOWN,),
        ),
        (GenerationOutput("a3b9", 0.0, complete=False), Options(), RESTRICTING, (RESPONSE_CUT,)),
        (
            GenerationOutput("", None, complete=False),
            Options(prompt="read", charset=DIGITS, kind=Kind.MATH),
            BUNDLED,
            (PROMPT_IGNORED, NOT_FOR_ARITHMETIC, CONFIDENCE_UNKNOWN, RESPONSE_CUT),
        ),
    ],
    ids=[
        "none",
        "prompt followed",
        "prompt",
        "charset obeyed",
        "charset not obeyed",
        "length not obeyed",
        "kind not obeyed",
        "charset for arithmetic",
        "length for arithmetic",
        "arithmetic",
        "no probabilities",
        "cut",
        "all, failed",
    ],
)
def test_an_option_without_effect_has_a_warning(
    reading: GenerationOutput,
    options: Options,
    capabilities: Capabilities,
    warnings: tuple[str, ...],
) -> None:
    plan = plan_recognition(options, capabilities)
    assert answer_from_output(reading, plan).warnings == warnings


def test_a_prompt_that_had_no_effect_does_not_change_how_the_text_is_read() -> None:
    reading = GenerationOutput("3+5=?", 0.0, complete=True)
    options = Options(prompt="What does it say?")
    assert answer_from_output(reading, plan_recognition(options, BUNDLED)).text == "8"
    assert answer_from_output(reading, plan_recognition(options, RESTRICTING)).text == "3+5=?"


def test_a_failed_image_has_its_reason() -> None:
    assert failed_answer(ImageTooLarge("The image is too large.")) == Answer(
        text="",
        confidence=0.0,
        success=False,
        raw_response="",
        error_type="image_too_large",
        error="The image is too large.",
    )
