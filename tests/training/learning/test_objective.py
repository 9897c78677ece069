from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.vocabulary import DRAFT_TEXT, Vocabulary
from qwen_captcha.fitting.learning.optimizers import Optimizers
from qwen_captcha.fitting.learning.sampled_vocabulary import IGNORED
from qwen_captcha.fitting.learning.vision import encode_images
from training.build import build_config, build_model, build_processor, save_checkpoint
from training.learning.dataset import Batch
from training.learning.objective import (
    Objective,
    readable,
    to_patches,
)

pytestmark = pytest.mark.live

GRIDS = [(3, 8), (2, 6), (1, 1), (4, 7)]


@pytest.fixture(scope="module")
def processor() -> Qwen2VLProcessor:
    return build_processor()


@pytest.fixture(scope="module")
def objective(processor: Qwen2VLProcessor) -> Objective:
    model = build_model(build_config(depth=2, width=64, heads=2), seed=0)
    return Objective(model, processor.tokenizer).eval()


def random_images(grid: tuple[int, int], count: int = 2) -> torch.Tensor:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, grid[0] * 28, grid[1] * 28, 3), dtype=np.uint8)
    return torch.from_numpy(pixels)


def batch_of(images: torch.Tensor, labels: list[str], boxes: torch.Tensor) -> Batch:
    count = len(labels)
    return Batch(
        images=images,
        boxes=boxes,
        labels=labels,
        kinds=["latin"] * count,
        boxed=torch.ones(count, dtype=torch.bool),
        one_line=torch.ones(count, dtype=torch.bool),
        families=[""] * count,
        levels=[0] * count,
    )


def processed(processor: Qwen2VLProcessor, images: torch.Tensor, text: str) -> dict[str, object]:
    pictures = [Image.fromarray(image.numpy()) for image in images]
    size = images.shape[1] * images.shape[2]
    prompt = "<|vision_start|><|image_pad|><|vision_end|>" + text
    return dict(
        processor(
            text=[prompt] * len(pictures),
            images=pictures,
            images_kwargs={"size": {"shortest_edge": size, "longest_edge": size}},
            return_tensors="pt",
        )
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_patches_equal_the_image_processors(
    processor: Qwen2VLProcessor, grid: tuple[int, int]
) -> None:
    images = random_images(grid)
    expected = processed(processor, images, "")["pixel_values"]
    assert isinstance(expected, torch.Tensor)
    one_frame = expected.view(len(images), -1, 3, 2, 14 * 14)[:, :, :, 0].flatten(2)
    torch.testing.assert_close(to_patches(images), one_frame, atol=1e-5, rtol=0)


@pytest.mark.parametrize("grid", GRIDS)
@torch.inference_mode()
def test_encoder_and_decoder_equal_plain_transformers(
    processor: Qwen2VLProcessor, objective: Objective, grid: tuple[int, int]
) -> None:
    images = random_images(grid)
    inputs = processed(processor, images, "a3b")
    cells = grid[0] * grid[1]
    expected = objective.model(**inputs).logits[:, cells + 1 :]
    patches = encode_images(objective.model.model.visual, to_patches(images), grid)
    ids = inputs["input_ids"]
    assert isinstance(ids, torch.Tensor)
    states = objective._decode(ids, objective.model.model.visual.merger(patches), grid)
    torch.testing.assert_close(
        objective.model.lm_head(states[:, cells + 1 :]), expected, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_a_draft_depends_on_the_image_alone(
    processor: Qwen2VLProcessor, objective: Objective
) -> None:
    at_once = Objective(objective.model, processor.tokenizer, unaided_share=1.0).eval()
    at_once.load_state_dict(objective.state_dict())
    images, boxes = random_images((2, 6)), torch.zeros(2, 5, 4)
    unaided = at_once(batch_of(images, ["abcde", "12345"], boxes))
    aided = objective(batch_of(images, ["abcde", "12345"], boxes))
    assert unaided.unaided.all()
    assert not aided.unaided.any()
    assert unaided.token_loss != aided.token_loss
    ids, _ = at_once._tokens(["abc", "1"], 6, torch.tensor([True, False]), torch.device("cpu"))
    given, [one] = ids[:, 8:].tolist(), processor.tokenizer.encode("1")
    assert given[0] == processor.tokenizer.encode(DRAFT_TEXT) * 3
    assert given[1][0] == one


def test_the_service_drafts_the_tokens_of_training(processor: Qwen2VLProcessor) -> None:
    vocabulary = Vocabulary(processor.tokenizer.backend_tokenizer, 6894, frozenset({2}))
    assert [vocabulary.draft_token] == processor.tokenizer.encode(DRAFT_TEXT)


def test_training_on_one_batch_learns_it(processor: Qwen2VLProcessor) -> None:
    model = build_model(build_config(depth=1, width=64, heads=2), seed=0)
    objective = Objective(model, processor.tokenizer)
    optimizers = Optimizers(objective, bf16=False)
    images, labels = random_images((2, 2), 5), ["a", "B", "7", "?", "A"]
    boxes = torch.tensor([[[0.5, 0.5, 0.3, 0.4]]]).expand(5, 1, 4)
    first = objective(batch_of(images, labels, boxes))
    for _ in range(150):
        outcome = objective(batch_of(images, labels, boxes))
        if outcome.token_loss < 0.02 * first.token_loss:
            break
        optimizers.zero_grad()
        losses = (
            outcome.token_loss,
            outcome.glyph_loss,
            outcome.order_loss,
            outcome.column_loss,
        )
        sum(losses, torch.zeros(())).backward()
        optimizers.step(3e-3)
    assert outcome.exact.all()
    assert outcome.glyph_loss < 0.5 * first.glyph_loss
    assert outcome.order_loss < 0.5 * first.order_loss
    assert outcome.column_loss < 0.5 * first.column_loss
    hit = objective.eval()(batch_of(images, ["A", "B", "7", "!", "A"], boxes))
    assert hit.exact.tolist() == [False, True, True, False, True]
    assert hit.caseless.tolist() == [True, True, True, False, True]


def test_the_worst_read_of_each_group_is_left_out() -> None:
    losses = torch.tensor([[0.1, 0.2], [3.0, 1.0], [2.5, 0.0], [9.0, 9.0], [8.0, 9.0]])
    targets = torch.tensor([[5, 2], [5, 2], [2, IGNORED], [5, 2], [5, 2]])
    groups = torch.tensor([0, 0, 0, 2, 2])
    assert readable(losses, targets, groups, 0.0).all()
    # Of three the mean a token counts, so the third is the worst; of two, half is one.
    assert readable(losses, targets, groups, 0.5).tolist() == [True, True, False, False, True]


@torch.no_grad()
def test_chinese_characters_are_a_group_of_their_own(
    processor: Qwen2VLProcessor, objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def note(losses: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, share: float):
        seen.append((groups.tolist(), share))
        return torch.ones(len(losses), dtype=torch.bool)

    monkeypatch.setattr("training.learning.objective.readable", note)
    boxes = torch.tensor([[[0.5, 0.5, 0.3, 0.4]]]).expand(3, 1, 4)
    for share in (0.0, 1.0):
        wrapped = Objective(objective.model, processor.tokenizer, unaided_share=share).eval()
        wrapped(batch_of(random_images((2, 2), 3), ["a", "验", "7"], boxes))
    assert seen == [([0, 2, 0], 0.0), ([1, 3, 1], 0.0)]


@torch.no_grad()
def test_losses_are_those_of_the_selected_examples(
    processor: Qwen2VLProcessor, objective: Objective
) -> None:
    half = Objective(objective.model, processor.tokenizer, excluded_share=0.5).eval()
    half.load_state_dict(objective.state_dict())
    images, labels = random_images((2, 2)), ["a", "b"]
    boxes = torch.tensor([[[0.5, 0.5, 0.3, 0.4]]]).expand(2, 1, 4)
    single = [
        objective(batch_of(images[row : row + 1], labels[row : row + 1], boxes[:1]))
        for row in range(2)
    ]
    best = min(single, key=lambda outcome: float(outcome.token_loss))
    both = half(batch_of(images, labels, boxes))
    for name in ("token_loss", "glyph_loss", "order_loss", "column_loss"):
        torch.testing.assert_close(getattr(both, name), getattr(best, name))
        assert getattr(single[0], name) != getattr(single[1], name)


@torch.no_grad()
def test_real_captchas_have_no_boxes_and_are_never_left_out(
    processor: Qwen2VLProcessor, objective: Objective
) -> None:
    everything = Objective(objective.model, processor.tokenizer, excluded_share=1.0).eval()
    everything.load_state_dict(objective.state_dict())
    boxes = torch.zeros(2, 2, 4)
    batch = batch_of(random_images((2, 4)), ["ab", "cd"], boxes)
    real = replace(batch, families=["one", "two"], boxed=torch.zeros(2, dtype=torch.bool))
    outcome = everything(real)
    assert outcome.token_loss > 0
    assert outcome.glyph_loss == outcome.order_loss == 0
    assert outcome.column_loss > 0
    assert everything(replace(real, one_line=torch.zeros(2, dtype=torch.bool))).column_loss == 0


def test_saved_checkpoint_loads_with_equal_bf16_weights(
    processor: Qwen2VLProcessor, objective: Objective, tmp_path: object
) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    save_checkpoint(objective.model, processor, folder)
    loaded = Qwen2VLForConditionalGeneration.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16
    for name, value in objective.model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), value.to(torch.bfloat16)), name


def test_auxiliary_heads_go_on_from_another_run(
    objective: Objective, processor: Qwen2VLProcessor
) -> None:
    other = Objective(objective.model, processor.tokenizer)
    heads = {name: value.half() for name, value in other.heads().items()}
    assert {name.split(".")[0] for name in heads} == {"glyph_heads", "column_head"}
    fresh = Objective(objective.model, processor.tokenizer)
    fresh.load_heads(heads)
    for name, value in fresh.heads().items():
        torch.testing.assert_close(value, other.heads()[name].half().float())
    with pytest.raises(RuntimeError, match="look"):
        fresh.load_heads({"column_head.look.weight": torch.zeros(3)})
