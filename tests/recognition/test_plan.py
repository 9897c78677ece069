from __future__ import annotations

import math

import pytest
from PIL import Image, ImageDraw

from qwen_captcha.errors import InvalidOption
from qwen_captcha.images.crop import crop_to_text
from qwen_captcha.recognition.charsets import DIGITS, Charset
from qwen_captcha.recognition.options import Kind, Options
from qwen_captcha.recognition.plan import PROMPT_IGNORED, plan_recognition
from qwen_captcha.recognition.prompts import DEFAULT_PROMPTS
from qwen_captcha.recognition.reading import Capabilities

RESTRICTING = Capabilities()
TRANSCRIBER = Capabilities(follows_prompts=False, answers_questions=False)


def captcha() -> Image.Image:
    image = Image.new("RGB", (100, 40), "white")
    ImageDraw.Draw(image).rectangle((20, 10, 50, 20), "black")
    return image


def test_a_prompt_goes_to_a_model_that_follows_it() -> None:
    options = Options(prompt="Only the red ones.")
    plan = plan_recognition(options, RESTRICTING)
    assert (plan.prompt, plan.options, plan.warnings) == (options.prompt, options, ())


def test_a_prompt_is_ignored_with_a_warning_by_a_model_that_follows_none() -> None:
    plan = plan_recognition(Options(prompt="Only the red ones.", kind=Kind.MATH), TRANSCRIBER)
    assert plan.prompt == DEFAULT_PROMPTS[Kind.MATH]
    assert plan.options == Options(kind=Kind.MATH)
    assert plan.warnings == (PROMPT_IGNORED,)


def test_without_a_prompt_there_is_no_warning() -> None:
    assert plan_recognition(Options(), TRANSCRIBER).warnings == ()


def test_the_constraints_depend_on_options_and_capabilities() -> None:
    options = Options(kind=Kind.TEXT)
    assert not plan_recognition(options, RESTRICTING).constraints.restricts
    assert plan_recognition(options, TRANSCRIBER).constraints.restricts
    assert plan_recognition(Options(kind=Kind.DIGITS), RESTRICTING).constraints.charset == DIGITS


def test_options_that_allow_no_answer_are_rejected() -> None:
    with pytest.raises(InvalidOption, match="no character in common"):
        plan_recognition(Options(charset=Charset.of("ab"), kind=Kind.DIGITS), RESTRICTING)


def test_a_request_has_all_of_its_plan() -> None:
    plan = plan_recognition(Options(kind=Kind.DIGITS), RESTRICTING)
    request = plan.request(captcha(), 12, deadline=5.0)
    assert (request.prompt, request.constraints) == (plan.prompt, plan.constraints)
    assert (request.max_new_tokens, request.deadline) == (12, 5.0)
    assert plan.request(captcha(), 12).deadline == math.inf


def test_an_image_is_prepared_as_in_training() -> None:
    image = captcha()
    whole, cropped, stretched = (
        plan_recognition(Options(), capabilities).request(image, 8).image
        for capabilities in (
            RESTRICTING,
            Capabilities(crops_to_text=True),
            Capabilities(stretch=1.5),
        )
    )
    assert whole.size == image.size
    assert cropped.size == crop_to_text(image).size != image.size
    assert stretched.size == (150, 40)
