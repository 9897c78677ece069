from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from qwen_captcha.backends.qwen2vl import engine as engine_module
from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine, end_token_ids
from qwen_captcha.recognition.charsets import Charset
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Case, Kind
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import (
    CHARACTERS,
    END_IDS,
    IDS,
    Shape,
    noise_images,
    small_model,
    small_processor,
)

PROMPT = "what is it?"


@pytest.fixture(scope="module")
def engine() -> Qwen2VLEngine:
    return Qwen2VLEngine(small_model(Shape()), small_processor())


def tasks(
    sizes: list[tuple[int, int]], prompts: list[str] | None = None
) -> list[GenerationRequest]:
    images = noise_images(sizes)
    texts = prompts or [PROMPT] * len(images)
    return [GenerationRequest(image, text, 12) for image, text in zip(images, texts, strict=True)]


def test_readings_come_in_the_order_of_the_tasks(engine: Qwen2VLEngine) -> None:
    batch = tasks([(160, 60), (60, 160), (100, 30), (160, 60), (3, 3), (100, 30)])
    together = engine.read(batch)
    alone = [engine.read([task])[0] for task in batch]
    assert [reading.raw_response for reading in together] == [
        reading.raw_response for reading in alone
    ]
    assert len({reading.log_probability for reading in together}) == len(batch)


def test_prompts_of_different_lengths_share_a_batch(engine: Qwen2VLEngine) -> None:
    prompts = ["a", "a much longer prompt than that", "?"]
    batch = tasks([(160, 60)] * 3, prompts)
    for task, reading in zip(batch, engine.read(batch), strict=True):
        [alone] = engine.read([task])
        assert reading.raw_response == alone.raw_response
        assert reading.log_probability == pytest.approx(alone.log_probability, abs=1e-4)


def test_the_prompt_matters(engine: Qwen2VLEngine) -> None:
    [first, second] = engine.read(
        [
            GenerationRequest(task.image, prompt, 12)
            for task in tasks([(160, 60)])
            for prompt in "ab"
        ]
    )
    assert first.log_probability != second.log_probability


def test_a_response_holds_no_special_tokens(engine: Qwen2VLEngine) -> None:
    readings = engine.read(tasks([(160, 60), (60, 160), (100, 30), (64, 64), (90, 140)]))
    assert any(reading.raw_response for reading in readings)
    assert {letter for reading in readings for letter in reading.raw_response} <= set(CHARACTERS)


def test_a_response_that_is_cut_is_not_complete(engine: Qwen2VLEngine) -> None:
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


def test_each_task_of_a_batch_obeys_its_own_constraints(engine: Qwen2VLEngine) -> None:
    for task, reading in zip(constrained_tasks(), engine.read(constrained_tasks()), strict=True):
        for one in (reading, *reading.alternatives):
            assert task.constraints.allows(one.raw_response) or not one.complete
            assert one.raw_response == "".join(token.text for token in one.tokens)


def test_constrained_tasks_read_alike_alone_and_among_neighbours(engine: Qwen2VLEngine) -> None:
    for task, reading in zip(constrained_tasks(), engine.read(constrained_tasks()), strict=True):
        [alone] = engine.read([task])
        assert reading.raw_response == alone.raw_response
        assert reading.log_probability == pytest.approx(alone.log_probability, abs=1e-4)
        assert [other.raw_response for other in reading.alternatives] == [
            other.raw_response for other in alone.alternatives
        ]


def test_a_reading_that_nothing_can_spell_is_empty(engine: Qwen2VLEngine) -> None:
    [task] = tasks([(160, 60)])
    [reading] = engine.read([replace(task, constraints=DecodingConstraints(Charset.of("天"), 1))])
    assert (reading.raw_response, reading.log_probability) == ("", -math.inf)


def test_everything_that_may_end_an_answer_ends_it() -> None:
    model, processor = small_model(Shape()), small_processor()
    assert end_token_ids(model, processor) == set(END_IDS)
    model.generation_config.eos_token_id = None
    model.config.text_config.eos_token_id = IDS["z"]
    ends = {IDS["<|im_end|>"], IDS["<|endoftext|>"], IDS["z"]}
    assert end_token_ids(model, processor) == ends


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 1 byte"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 byte"),
    ],
    ids=["CUDA", "Linux", "Windows"],
)
def test_every_way_of_running_out_of_memory_is_a_memory_error(
    engine: Qwen2VLEngine, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(engine_module, "decode_greedily", fail)
    with pytest.raises(MemoryError, match="does not fit"):
        engine.read(tasks([(160, 60)]))


def test_other_errors_stay_what_they_are(
    engine: Qwen2VLEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(engine_module, "decode_greedily", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        engine.read(tasks([(160, 60)]))
