from __future__ import annotations

import pytest
import torch
from PIL import Image
from transformers import Qwen2VLModel, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.preprocessing import Preprocessor
from qwen_captcha.backends.qwen2vl.pytorch.processor import processor_config
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import (
    IDS,
    PIXEL_RANGE,
    SHAPES,
    SPECIAL_TOKENS,
    noise_image,
    noise_images,
    small_model,
    small_processor,
)

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def model() -> Qwen2VLModel:
    return small_model(SHAPES["one layer, one key-value head"]).model


@pytest.fixture
def processor() -> Qwen2VLProcessor:
    return small_processor()


@pytest.fixture
def preprocessor(processor: Qwen2VLProcessor) -> Preprocessor:
    return Preprocessor(processor_config(processor))


def task(image: Image.Image, prompt: str = "what is it?") -> GenerationRequest:
    return GenerationRequest(image, prompt, 8)


def test_a_batch_is_what_the_processor_returns(
    preprocessor: Preprocessor, processor: Qwen2VLProcessor, model: Qwen2VLModel
) -> None:
    images = noise_images([(112, 56), (56, 112), (84, 84), (112, 56)])
    prompts = ["what is it?", "digits", "", "read 3 letters."]
    texts = [
        processor.apply_chat_template(
            [
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": prompt}],
                }
            ],
            tokenize=False,
            add_generation_prompt=True,
        )
        for prompt in prompts
    ]
    expected = processor(text=texts, images=images, padding=True, return_tensors="pt")
    batch = preprocessor.prepare([task(*pair) for pair in zip(images, prompts, strict=True)])
    assert batch.input_ids.tolist() == expected["input_ids"].tolist()
    assert batch.attention_mask.tolist() == expected["attention_mask"].bool().tolist()
    frames = expected["pixel_values"].view(len(batch.pixel_values), 3, 2, -1)
    assert torch.equal(frames[:, :, 0], frames[:, :, 1])
    assert torch.equal(torch.from_numpy(batch.pixel_values), frames[:, :, 0].flatten(1))
    assert [[1, *grid] for grid in batch.grids] == expected["image_grid_thw"].tolist()
    assert batch.is_image.tolist() == expected["mm_token_type_ids"].bool().tolist()
    position_ids, _ = model.get_rope_index(
        expected["input_ids"],
        mm_token_type_ids=expected["mm_token_type_ids"],
        image_grid_thw=expected["image_grid_thw"],
        attention_mask=expected["attention_mask"],
    )
    assert batch.position_ids.tolist() == position_ids.tolist()


def test_rows_are_padded_at_the_start(preprocessor: Preprocessor) -> None:
    image = noise_image(112, 56)
    batch = preprocessor.prepare([task(image, "a longer prompt"), task(image, "short")])
    assert batch.attention_mask[0].all()
    padded = int((~batch.attention_mask[1]).sum())
    assert padded == len("a longer prompt") - len("short")
    assert not batch.attention_mask[1, :padded].any()
    assert (batch.input_ids[1, :padded] == IDS["<|endoftext|>"]).all()


@pytest.mark.parametrize(
    "size",
    [(3, 3), (1, 1), (200, 1), (1, 200), (400, 2), (160, 60), (700, 20), (6000, 6000), (28, 28)],
    ids=lambda size: "{}x{}".format(*size),
)
def test_an_image_of_any_shape_becomes_patches(
    preprocessor: Preprocessor, size: tuple[int, int]
) -> None:
    image = Image.new("RGB", size, "white")
    width, height = preprocessor.size_shown(image)
    batch = preprocessor.prepare([task(image)])
    assert batch.grids == [(height // 14, width // 14)]
    assert len(batch.pixel_values) == batch.grids[0].rows * batch.grids[0].columns
    assert width * height >= PIXEL_RANGE[0]


def test_a_request_may_have_a_pixel_range_of_its_own(preprocessor: Preprocessor) -> None:
    image = noise_image(112, 56)
    least = 4 * PIXEL_RANGE[1]
    width, height = preprocessor.size_shown(image, (least, 2 * least))
    assert width * height >= least
    batch = preprocessor.prepare([task(image)], (least, 2 * least))
    assert batch.grids == [(height // 14, width // 14)]


@pytest.mark.parametrize("pixels", [784, 360_000, 100_000_000])
def test_the_longest_image_fits_any_pixel_range(processor: Qwen2VLProcessor, pixels: int) -> None:
    processor.image_processor.size = {"shortest_edge": 784, "longest_edge": pixels}
    preprocessor = Preprocessor(processor_config(processor))
    batch = preprocessor.prepare([task(Image.new("RGB", (40_000, 200)))])
    assert batch.grids[0].rows * batch.grids[0].columns // 4 <= max(100, pixels // 784)


@pytest.mark.parametrize(("width", "height"), [(160, 60), (100, 30), (90, 140), (300, 100)])
def test_an_image_is_resized_to_the_range_of_the_processor(
    preprocessor: Preprocessor, width: int, height: int
) -> None:
    shown_width, shown_height = preprocessor.size_shown(noise_image(width, height))
    assert shown_width % 28 == shown_height % 28 == 0
    assert PIXEL_RANGE[0] <= shown_width * shown_height <= PIXEL_RANGE[1]


@pytest.mark.parametrize(
    "prompt",
    [
        *(f"a{token}b" for token in SPECIAL_TOKENS),
        "a<|image_<|image_pad|>pad|>b",
        "<|im_end|><|im_start|>" * 3,
    ],
)
def test_special_tokens_in_a_prompt_are_no_special_tokens(
    preprocessor: Preprocessor, prompt: str
) -> None:
    image = noise_image(112, 56)
    plain = preprocessor.prepare([task(image, "")]).input_ids[0].tolist()
    batch = preprocessor.prepare([task(image, prompt)]).input_ids[0].tolist()
    for token in SPECIAL_TOKENS:
        assert batch.count(IDS[token]) == plain.count(IDS[token])


def test_a_prompt_is_tokenised_once_for_images_of_one_size(
    preprocessor: Preprocessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise_images([(112, 56), (112, 56)])
    preprocessor.prepare([task(images[0])])
    monkeypatch.setattr(preprocessor, "_build_row", pytest.fail)
    assert preprocessor.prepare([task(images[1])]).grids == [(4, 8)]


def test_a_chat_template_without_an_image_is_rejected(
    processor: Qwen2VLProcessor,
) -> None:
    processor.chat_template = "<|im_start|>hello"
    with pytest.raises(ValueError, match="chat template"):
        Preprocessor(processor_config(processor)).prepare([task(noise_image(112, 56))])
