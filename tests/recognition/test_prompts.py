"""Prompts: one for each kind, and the caller's own in place of all."""

import pytest

from qwen_captcha.recognition.options import (
    Case,
    Kind,
    Options,
)
from qwen_captcha.recognition.prompts import DEFAULT_PROMPTS, prompt_for


def test_every_kind_has_a_prompt_of_its_own():
    prompts = [prompt_for(Options(kind=kind)) for kind in Kind]

    assert set(DEFAULT_PROMPTS) == set(Kind)
    assert len(set(prompts)) == len(Kind)


def test_default_options_use_the_prompt_for_any_kind():
    assert prompt_for(Options()) == DEFAULT_PROMPTS[Kind.AUTO]


@pytest.mark.parametrize("kind", Kind)
def test_the_prompt_is_short_and_requests_the_answer_alone(kind: Kind):
    prompt = prompt_for(Options(kind=kind))

    assert "only" in prompt
    assert len(prompt) < 450, "every token of the prompt is prefill time"
    assert prompt == " ".join(prompt.split())


@pytest.mark.parametrize("kind", [Kind.AUTO, Kind.MATH])
def test_arithmetic_is_copied_not_computed(kind: Kind):
    assert "calculat" in prompt_for(Options(kind=kind))


@pytest.mark.parametrize("kind", [Kind.AUTO, Kind.TEXT])
def test_the_prompt_names_the_case(kind: Kind):
    assert "upper and lower case" in prompt_for(Options(kind=kind))


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("prompt", ["What colour is the text?", "读出图中的红色字符", "  x\n"])
def test_a_prompt_replaces_the_default_entirely(kind: Kind, prompt: str):
    assert prompt_for(Options(prompt=prompt, kind=kind)) == prompt


@pytest.mark.parametrize("options", [Options(case=Case.LOWER), Options(charset="0123456789")])
def test_case_and_charset_leave_the_prompt_alone(options: Options):
    assert prompt_for(options) == DEFAULT_PROMPTS[Kind.AUTO]
