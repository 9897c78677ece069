from __future__ import annotations

import pytest
import torch

from qwen_captcha.backends.qwen2vl.preprocessing import Grid
from qwen_captcha.backends.qwen2vl.pytorch.vision_encoder import VisionEncoder
from tests.support.checkpoints import (
    SHAPES,
    Shape,
    small_model,
)

pytestmark = pytest.mark.live

CHANNELS, FRAMES, PATCH_PIXELS = 3, 2, 14 * 14
BATCHES = {
    "one image": [Grid(4, 8)],
    "equal sizes": [Grid(4, 8)] * 3,
    "runs of equal sizes": [Grid(2, 6), Grid(2, 6), Grid(6, 2), Grid(4, 4), Grid(4, 4)],
    "sizes that take turns": [Grid(2, 2), Grid(4, 8), Grid(2, 2), Grid(4, 8)],
}


def patches(grids: list[Grid]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    count = sum(grid.rows * grid.columns for grid in grids)
    return torch.randn(count, CHANNELS * PATCH_PIXELS, generator=generator)


def of_two_frames(pixel_values: torch.Tensor) -> torch.Tensor:
    """Return patches as the model expects them, (P, channels x 2 frames x 14 x 14)."""
    frame = pixel_values.view(-1, CHANNELS, 1, PATCH_PIXELS)
    return frame.expand(-1, -1, FRAMES, -1).flatten(1)


def tokens_of_the_model(
    visual: torch.nn.Module, pixel_values: torch.Tensor, grids: list[Grid]
) -> torch.Tensor:
    thw = torch.tensor([[1, *grid] for grid in grids])
    tokens: torch.Tensor = visual(of_two_frames(pixel_values), thw).pooler_output
    return tokens


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("grids", BATCHES.values(), ids=BATCHES)
def test_the_tokens_are_those_of_the_model(shape: Shape, grids: list[Grid]) -> None:
    visual = small_model(shape).model.visual
    pixel_values = patches(grids)
    with torch.inference_mode():
        expected = tokens_of_the_model(visual, pixel_values, grids)
        tokens = VisionEncoder(visual).encode(pixel_values, grids)
    torch.testing.assert_close(tokens, expected, rtol=1e-4, atol=1e-4)


def test_bf16_weights_are_computed_in_bf16() -> None:
    visual = small_model(Shape()).model.visual.to(torch.bfloat16)
    grids = BATCHES["runs of equal sizes"]
    pixel_values = patches(grids)
    with torch.inference_mode():
        expected = tokens_of_the_model(visual, pixel_values, grids)
        tokens = VisionEncoder(visual).encode(pixel_values, grids)
    assert tokens.dtype == torch.bfloat16
    # bf16 has three digits.
    torch.testing.assert_close(tokens, expected, rtol=5e-2, atol=5e-2 * expected.abs().max().item())


def test_another_activation_is_rejected() -> None:
    visual = small_model(Shape()).model.visual
    visual.config.hidden_act = "gelu"
    with pytest.raises(ValueError, match="activation gelu"):
        VisionEncoder(visual)
