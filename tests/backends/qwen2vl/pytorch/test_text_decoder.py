from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from qwen_captcha.backends.qwen2vl.pytorch.text_decoder import KeyValueCache, TextDecoder
from tests.support.checkpoints import (
    SHAPES,
    Shape,
    small_model,
)

pytestmark = pytest.mark.live

ROWS = 2
TOKENS = 7


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def model(request: pytest.FixtureRequest) -> Qwen2VLForConditionalGeneration:
    return small_model(request.param)


@pytest.fixture
def token_ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(7, 40, (ROWS, TOKENS), generator=generator)  # (B, T)


def positions(start: int, end: int) -> torch.Tensor:
    return torch.arange(start, end).expand(3, ROWS, -1)


def test_a_pass_returns_the_logits_of_the_last_position(
    model: Qwen2VLForConditionalGeneration, token_ids: torch.Tensor
) -> None:
    decoder = TextDecoder(model)
    logits = decoder.forward(
        decoder.embed(token_ids),
        decoder.rotation(positions(0, TOKENS)),
        None,
        decoder.new_cache(TOKENS),
    )
    expected = model(input_ids=token_ids, position_ids=positions(0, TOKENS)).logits[:, -1]
    torch.testing.assert_close(logits[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_a_pass_returns_the_logits_of_the_requested_positions(
    model: Qwen2VLForConditionalGeneration, token_ids: torch.Tensor
) -> None:
    decoder = TextDecoder(model)
    rotation, cache = decoder.rotation(positions(0, TOKENS)), decoder.new_cache(TOKENS)
    logits = decoder.forward(decoder.embed(token_ids), rotation, None, cache, wanted=3)
    expected = model(input_ids=token_ids, position_ids=positions(0, TOKENS)).logits[:, -3:]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_token_by_token_is_as_all_at_once(
    model: Qwen2VLForConditionalGeneration, token_ids: torch.Tensor
) -> None:
    decoder = TextDecoder(model)
    cache = decoder.new_cache(TOKENS)
    expected = model(input_ids=token_ids, position_ids=positions(0, TOKENS)).logits
    for place in range(TOKENS):
        logits = decoder.forward(
            decoder.embed(token_ids[:, place : place + 1]),
            decoder.rotation(positions(place, place + 1)),
            None,
            cache,
        )
        torch.testing.assert_close(logits[:, 0], expected[:, place], rtol=1e-4, atol=1e-4)
    assert cache.length == TOKENS


def test_masked_tokens_have_no_effect(
    model: Qwen2VLForConditionalGeneration, token_ids: torch.Tensor
) -> None:
    decoder = TextDecoder(model)
    mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    mask[2:, :2] = False  # later tokens do not see the first two
    mask = mask.expand(ROWS, 1, -1, -1)
    rotation = decoder.rotation(positions(0, TOKENS))
    results = []
    for other in (token_ids, token_ids.flip(0)):
        ids = torch.cat([other[:, :2], token_ids[:, 2:]], dim=1)
        cache = decoder.new_cache(TOKENS)
        results.append(decoder.forward(decoder.embed(ids), rotation, mask, cache))
    torch.testing.assert_close(*results)


def test_appending_beyond_the_capacity_raises() -> None:
    cache = KeyValueCache(layers=1, capacity=2)
    with pytest.raises(RuntimeError):
        cache.append(0, torch.zeros(1, 3, 2, 4))


def test_bf16_weights_are_computed_in_bf16(token_ids: torch.Tensor) -> None:
    model = small_model(Shape()).to(torch.bfloat16)
    decoder = TextDecoder(model)
    logits = decoder.forward(
        decoder.embed(token_ids),
        decoder.rotation(positions(0, TOKENS)),
        None,
        decoder.new_cache(TOKENS),
    )
    expected = model(input_ids=token_ids, position_ids=positions(0, TOKENS)).logits[:, -1]
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(
        logits[:, 0], expected, rtol=5e-2, atol=5e-2 * expected.abs().max().item()
    )
