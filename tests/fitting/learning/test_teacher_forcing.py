"""The losses are those of the plain model, run as Qwen2-VL's documentation teaches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.placement import LoadPlan, Precision
from qwen_captcha.fitting.learning.teacher_forcing import END, TeacherForcing
from tests.support.checkpoints import PIXEL_RANGE, documented_inputs
from tests.support.own_captchas import draw_text

pytestmark = pytest.mark.live

PROMPT = "what is it?"
SIZE = (112, 56)
TEXTS = ["a3b9", "04", "xyz7z"]
PICTURES = [draw_text(text, SIZE) for text in TEXTS]

Loaded = tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]


@pytest.fixture(scope="module")
def loaded(small_base: Path) -> Loaded:
    model = loading.load_model(small_base, LoadPlan(Precision.FP32))
    return model, loading.load_processor(small_base, PIXEL_RANGE)


def plain_log_probabilities(
    loaded: Loaded, picture: Image.Image, text: str, pixel_range: tuple[int, int] = PIXEL_RANGE
) -> torch.Tensor:
    """Return the log-probability of each token of an answer and of its end, (A,)."""
    model, processor = loaded
    inputs = documented_inputs(processor, [picture], PROMPT, pixel_range)
    answer = processor.tokenizer(text + END, return_tensors="pt")["input_ids"]  # (1, A)
    ids = torch.cat([inputs["input_ids"], answer], dim=1)
    logits = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=inputs["pixel_values"],
        image_grid_thw=inputs["image_grid_thw"],
        mm_token_type_ids=(ids == processor.image_token_id).int(),
    ).logits[0, -answer.shape[1] - 1 : -1]  # (A, V)
    return logits.log_softmax(-1).gather(1, answer.T)[:, 0]


@torch.inference_mode()
def test_losses_are_those_of_the_plain_model(loaded: Loaded) -> None:
    outcome = TeacherForcing(*loaded, PROMPT).losses(PICTURES, TEXTS)
    for row, (picture, text) in enumerate(zip(PICTURES, TEXTS, strict=True)):
        expected = -plain_log_probabilities(loaded, picture, text).mean()
        assert float(outcome.losses[row]) == pytest.approx(float(expected), rel=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(56, 28), (280, 140)], ids=["smaller", "larger"])
def test_pictures_beyond_the_range_of_the_checkpoint_keep_their_size(
    loaded: Loaded, small_base: Path, size: tuple[int, int]
) -> None:
    pixels = size[0] * size[1]
    assert not PIXEL_RANGE[0] <= pixels <= PIXEL_RANGE[1]
    picture = draw_text("a3b9", size)
    outcome = TeacherForcing(*loaded, PROMPT).losses([picture], ["a3b9"])
    exact = (pixels, pixels)
    plain = (loaded[0], loading.load_processor(small_base, exact))
    expected = -plain_log_probabilities(plain, picture, "a3b9", exact).mean()
    assert float(outcome.losses[0]) == pytest.approx(float(expected), rel=1e-3)


@torch.inference_mode()
def test_a_text_is_right_where_greedy_decoding_gives_it(loaded: Loaded) -> None:
    forcing = TeacherForcing(*loaded, PROMPT)
    model, processor = loaded
    inputs = documented_inputs(processor, PICTURES[:1], PROMPT, PIXEL_RANGE)
    said = model.generate(
        **inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=8, eos_token_id=[]
    )
    text = processor.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :])
    end = text.find(END)
    if end >= 0:
        assert forcing.losses(PICTURES[:1], [text[:end]]).right.tolist() == [True]
    assert forcing.losses(PICTURES, ["a", "b", "c"]).right.tolist() != [True] * 3


def test_a_draft_does_not_attend_to_its_own_characters(loaded: Loaded) -> None:
    forcing = TeacherForcing(*loaded, PROMPT)
    torch.manual_seed(0)
    with torch.no_grad():
        at_once = forcing.losses(PICTURES[:1], ["a3b9"], unaided_share=1.0).losses
        other = forcing.losses(PICTURES[:1], ["a3b9"]).losses
    assert not torch.allclose(at_once, other)


def test_tokens_that_occur_are_known_with_the_end(loaded: Loaded) -> None:
    _, processor = loaded
    ids = TeacherForcing(*loaded, PROMPT).token_ids(["ab", "ba"])
    assert processor.tokenizer.convert_ids_to_tokens(ids) == [END, "a", "b"]
