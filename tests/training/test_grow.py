"""A checkpoint with more blocks reads as before."""

from __future__ import annotations

import pytest
import torch

from qwen_captcha.fitting.learning.vision import encode_images
from training.build import build_config, build_model
from training.grow import grown
from training.learning.objective import to_patches

pytestmark = pytest.mark.live


@torch.no_grad()
def test_new_blocks_change_nothing_until_they_learn() -> None:
    model = build_model(build_config(depth=2, width=64, heads=2), seed=0)
    larger = grown(model, 5)
    images = torch.randint(0, 256, (2, 56, 112, 3), dtype=torch.uint8)
    patches = to_patches(images)
    before, after = (encode_images(one.model.visual, patches, (2, 4)) for one in (model, larger))
    torch.testing.assert_close(before, after)
    assert len(larger.model.visual.blocks) == larger.config.vision_config.depth == 5
    ids = torch.tensor([[1, 2, 9]])
    torch.testing.assert_close(model(ids).logits, larger(ids).logits)
    new = [block for block in larger.model.visual.blocks if not block.mlp.fc2.weight.any()]
    assert len(new) == 3


def test_fewer_blocks_are_rejected() -> None:
    with pytest.raises(ValueError, match="not fewer"):
        grown(build_model(build_config(depth=2, width=64, heads=2), seed=0), 1)
