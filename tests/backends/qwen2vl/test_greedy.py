"""Decoding compared with `generate` and with a plain forward pass of the same model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.greedy import Decoded, decode_greedily
from qwen_captcha.backends.qwen2vl.language_model import NonFiniteLogitsError, Prompts
from qwen_captcha.backends.qwen2vl.preprocessing import Preprocessor
from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchModel
from qwen_captcha.backends.qwen2vl.pytorch.processor import processor_config
from qwen_captcha.backends.qwen2vl.pytorch.text_decoder import TextDecoder
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import (
    END_IDS,
    IDS,
    PIXEL_RANGE,
    SHAPES,
    documented_inputs,
    noise_images,
    small_model,
    small_processor,
)

pytestmark = pytest.mark.live

MAX_NEW_TOKENS = 12
PROMPT = "what is it?"
# In all of them `qwen_vl_utils` and the processor agree on the size that the model sees.
SIZES = {
    "one captcha": [(160, 60)],
    "a tiny one": [(3, 3)],
    "equal sizes": [(100, 30), (100, 30), (100, 30)],
    "mixed sizes": [(160, 60), (60, 160), (100, 30), (64, 64), (160, 60), (90, 140)],
}
END_SET = frozenset(END_IDS)


@pytest.fixture(scope="module")
def processor() -> Qwen2VLProcessor:
    return small_processor()


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def model(request: pytest.FixtureRequest) -> Qwen2VLForConditionalGeneration:
    return small_model(request.param)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def decode(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    images: Sequence[Image.Image],
    max_new_tokens: Sequence[int] | None = None,
    drafts: Sequence[int] = (),
) -> list[Decoded]:
    """Decode images with our loop, which first drafts these tokens of each."""
    limits = list(max_new_tokens or [MAX_NEW_TOKENS] * len(images))
    preprocessor = Preprocessor(processor_config(processor))
    batch = preprocessor.prepare(
        [GenerationRequest(image, PROMPT, MAX_NEW_TOKENS) for image in images]
    )
    vocabulary = Vocabulary(processor.tokenizer.backend_tokenizer, len(IDS), END_SET)
    draft_rows = np.array([list(drafts)] * len(images), dtype=np.int64)
    prompts = Prompts.read(PyTorchModel(model), batch, draft_rows, max(limits))
    return decode_greedily(prompts, vocabulary, limits)


def generate(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    images: Sequence[Image.Image],
    **options: object,
) -> list[list[int]]:
    """Return the tokens of `generate`, the end token and what follows left out."""
    inputs = documented_inputs(processor, images, PROMPT, PIXEL_RANGE)
    output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, **options)
    rows = output[:, inputs["input_ids"].shape[1] :].tolist()
    ends = [[place for place, token in enumerate(row) if token in END_SET] for row in rows]
    return [row[: end[0]] if end else row for row, end in zip(rows, ends, strict=True)]


@pytest.mark.parametrize("drafts", [0, 1, 5, MAX_NEW_TOKENS - 1])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_tokens_are_those_of_greedy_generate(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    sizes: list[tuple[int, int]],
    drafts: int,
) -> None:
    images = noise_images(sizes)
    expected = generate(model, processor, images, do_sample=False, repetition_penalty=1.0)
    decoded = decode(model, processor, images, drafts=[IDS["a"]] * drafts)
    assert [row.token_ids for row in decoded] == expected
    assert [row.complete for row in decoded] == [
        len(tokens) < MAX_NEW_TOKENS for tokens in expected
    ]


def test_a_generation_config_that_samples_and_forbids_repetition_has_no_effect(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor
) -> None:
    images = noise_images(SIZES["mixed sizes"])
    torch.manual_seed(1)
    assert model.generation_config.do_sample
    assert generate(model, processor, images) != [
        row.token_ids for row in decode(model, processor, images)
    ]


@pytest.mark.parametrize("drafts", [0, 5])
def test_a_row_of_a_batch_equals_the_row_alone(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, drafts: int
) -> None:
    images = noise_images([(160, 60), (200, 2), (2, 200), (3, 3), (100, 30), (300, 100)])
    together = decode(model, processor, images)
    for image, row in zip(images, together, strict=True):
        [alone] = decode(model, processor, [image], drafts=[IDS["a"]] * drafts)
        assert row.scores == pytest.approx(alone.scores, abs=1e-4)
        assert (row.token_ids, row.complete) == (alone.token_ids, alone.complete)
        assert row.log_probability == pytest.approx(alone.log_probability, abs=1e-4)


def test_an_accepted_draft_takes_no_pass_of_its_own(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [image] = noise_images([(160, 60)])
    [row] = decode(model, processor, [image], [4])
    assert len(row.scores) > 1
    monkeypatch.setattr(PyTorchModel, "extend", lambda *_: pytest.fail("another pass"))
    [drafted] = decode(model, processor, [image], [4], [*row.token_ids, 0, 0][:3])
    assert drafted.token_ids == row.token_ids


def test_the_log_probability_is_that_of_a_teacher_forced_pass(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor
) -> None:
    images = noise_images(SIZES["mixed sizes"])
    # A plain pass takes a chosen image token for an image that is missing.
    rows = [
        (image, row)
        for image, row in zip(images, decode(model, processor, images), strict=True)
        if IDS["<|image_pad|>"] not in row.token_ids
    ]
    assert any(row.complete and row.token_ids for _, row in rows)
    for image, row in rows:
        expected = teacher_forced(model, processor, image, row)
        assert row.log_probability == pytest.approx(expected, abs=1e-4)


def teacher_forced(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    image: Image.Image,
    row: Decoded,
) -> float:
    """Return the log-probability of a row's tokens, the end token included."""
    inputs = documented_inputs(processor, [image], PROMPT, PIXEL_RANGE)
    chosen = torch.tensor([row.token_ids], dtype=torch.long)
    length = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], chosen], dim=1)
    inputs["input_ids"] = ids
    inputs["attention_mask"] = torch.ones_like(ids)
    inputs["mm_token_type_ids"] = (ids == IDS["<|image_pad|>"]).int()
    log_probabilities = model(**inputs).logits[0, length - 1 :].log_softmax(-1)
    total = sum(log_probabilities[place, token].item() for place, token in enumerate(chosen[0]))
    if not row.complete:
        return total
    best, token = log_probabilities[-1].max(-1)
    assert token.item() in END_SET
    return total + best.item()


@pytest.mark.parametrize("drafts", [0, 5])
@pytest.mark.parametrize("limit", [1, 3])
def test_a_row_is_cut_at_its_own_limit(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    limit: int,
    drafts: int,
) -> None:
    images = noise_images([(160, 60), (100, 30), (64, 64)])
    longest = decode(model, processor, images)
    cut = decode(model, processor, images, [MAX_NEW_TOKENS, limit, limit], [IDS["a"]] * drafts)
    assert cut[0].token_ids == longest[0].token_ids
    for whole, row in zip(longest[1:], cut[1:], strict=True):
        assert row.token_ids == whole.token_ids[:limit]
        assert row.complete == (whole.complete and len(whole.token_ids) < limit)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_logits_that_are_not_finite_are_an_error(processor: Qwen2VLProcessor, value: float) -> None:
    model = small_model(SHAPES["as many key-value heads, untied head"])
    model.lm_head.weight[IDS["x"]] = value
    with pytest.raises(NonFiniteLogitsError, match="not finite"):
        decode(model, processor, noise_images([(160, 60)]))


def test_a_model_spread_by_accelerate_decodes_alike(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor
) -> None:
    images = noise_images(SIZES["mixed sizes"])
    expected = decode(model, processor, images)
    layers = model.model.language_model.layers
    places = {
        "model.visual": "cpu",
        "model.language_model.embed_tokens": "cpu",
        **{f"model.language_model.layers.{number}": "cpu" for number in range(len(layers))},
        "model.language_model.norm": "cpu",
        "model.language_model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    spread = dispatch_model(deepcopy(model), places, force_hooks=True)
    assert hasattr(spread.model.language_model.layers[0], "_hf_hook")
    assert decode(spread, processor, images) == expected


def test_sliding_windows_are_rejected() -> None:
    model = small_model(SHAPES["one layer, one key-value head"])
    model.model.language_model.has_sliding_layers = True
    with pytest.raises(ValueError, match="sliding-window"):
        TextDecoder(model)
