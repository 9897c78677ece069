from __future__ import annotations

import math
from dataclasses import replace

import pytest

from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchCache
from qwen_captcha.backends.qwen2vl.pytorch.processor import create_engine
from qwen_captcha.recognition.charsets import Charset
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Case, Kind
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import (
    CHARACTERS,
    Shape,
    noise_images,
    small_model,
    small_processor,
)

pytestmark = pytest.mark.live

PROMPT = "what is it?"


@pytest.fixture(scope="module")
def engine() -> Qwen2VLEngine[PyTorchCache]:
    return create_engine(small_model(Shape()), small_processor())


def tasks(
    sizes: list[tuple[int, int]], prompts: list[str] | None = None
) -> list[GenerationRequest]:
    images = noise_images(sizes)
    texts = prompts or [PROMPT] * len(images)
    return [GenerationRequest(image, text, 12) for image, text in zip(images, texts, strict=True)]


def test_readings_come_in_the_order_of_the_tasks(engine: Qwen2VLEngine[PyTorchCache]) -> None:
    batch = tasks([(160, 60), (60, 160), (100, 30), (160, 60), (3, 3), (100, 30)])
    together = engine.read(batch)
    alone = [engine.read([task])[0] for task in batch]
    assert [reading.raw_response for reading in together] == [
        reading.raw_response for reading in alone
    ]
    assert len({reading.log_probability for reading in together}) == len(batch)


def test_prompts_of_different_lengths_share_a_batch(engine: Qwen2VLEngine[PyTorchCache]) -> None:
    prompts = ["a", "a much longer prompt than that", "?"]
    batch = tasks([(160, 60)] * 3, prompts)
    for task, reading in zip(batch, engine.read(batch), strict=True):
        [alone] = engine.read([task])
        assert reading.raw_response == alone.raw_response
        assert reading.log_probability == pytest.approx(alone.log_probability, abs=1e-4)


def test_the_prompt_matters(engine: Qwen2VLEngine[PyTorchCache]) -> None:
    [first, second] = engine.read(
        [
            GenerationRequest(task.image, prompt, 12)
            for task in tasks([(160, 60)])
            for prompt in "ab"
        ]
    )
    assert first.log_probability != second.log_probability


def test_a_response_has_no_special_tokens(engine: Qwen2VLEngine[PyTorchCache]) -> None:
    readings = engine.read(tasks([(160, 60), (60, 160), (100, 30), (64, 64), (90, 140)]))
    assert any(reading.raw_response for reading in readings)
    assert {letter for reading in readings for letter in reading.raw_response} <= set(CHARACTERS)


def test_a_response_that_is_cut_is_not_complete(engine: Qwen2VLEngine[PyTorchCache]) -> None:
    batch = tasks([(160, 60), (60, 160), (100, 30), (64, 64), (90, 140)])
    whole = engine.read(batch)
    cut = engine.read([GenerationRequest(task.image, PROMPT, 1) for task in batch])
    assert not all(reading.complete for reading in cut)
    for reading, shorter in zip(whole, cut, strict=True):
        assert reading.raw_response.startswith(shorter.raw_response)


MIXED = {
    "free": DecodingConstraints(),
    "digits": DecodingConstraints(Charset.of("0123456789"), 1),
    "letters, exactly four": DecodingConstraints(Charset.of("xyzh"), 4, 4),
    "details": DecodingConstraints(alternatives=5),
    "either case": DecodingConstraints(case=Case.LOWER),
    "arithmetic": DecodingConstraints(Charset.of("0123456789?"), 1, kind=Kind.MATH),
}


def constrained_tasks() -> list[GenerationRequest]:
    sizes = [(160, 60), (60, 160), (100, 30), (160, 60), (3, 3), (100, 30)]
    return [
        replace(task, constraints=constraints)
        for task, constraints in zip(tasks(sizes), MIXED.values(), strict=True)
    ]


def test_each_task_of_a_batch_has_its_own_constraints(
    engine: Qwen2VLEngine[PyTorchCache],
) -> None:
    for task, reading in zip(constrained_tasks(), engine.read(constrained_tasks()), strict=True):
        for one in (reading, *reading.alternatives):
            assert task.constraints.allows(one.raw_response) or not one.complete
            assert one.raw_response == "".join(token.text for token in one.tokens)


def test_constrained_tasks_read_alike_alone_and_in_a_batch(
    engine: Qwen2VLEngine[PyTorchCache],
) -> None:
    for task, reading in zip(constrained_tasks(), engine.read(constrained_tasks()), strict=True):
        [alone] = engine.read([task])
        assert reading.raw_response == alone.raw_response
        assert reading.log_probability == pytest.approx(alone.log_probability, abs=1e-4)
        assert [other.raw_response for other in reading.alternatives] == [
            other.raw_response for other in alone.alternatives
        ]


def test_a_charset_outside_the_vocabulary_gives_an_empty_output(
    engine: Qwen2VLEngine[PyTorchCache],
) -> None:
    [task] = tasks([(160, 60)])
    [reading] = engine.read([replace(task, constraints=DecodingConstraints(Charset.of("天"), 1))])
    assert (reading.raw_response, reading.log_probability) == ("", -math.inf)
