"""Small checkpoints that can be fitted.

The fixtures import what needs PyTorch themselves: pytest imports this module for all tests here.
"""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a checkpoint that reads digits and small letters, at random."""
    from tests.support.checkpoints import PIXEL_RANGE, write_small_checkpoint

    facts = {
        "follows_prompts": False,
        "answers_questions": False,
        "pixel_range": list(PIXEL_RANGE),
        "crops_to_text": True,
    }
    return write_small_checkpoint(tmp_path_factory.mktemp("base") / "small", facts)


@pytest.fixture(scope="session")
def published_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small checkpoint in the layout of the published ones."""
    from evaluation.published.layout import Shape, write_checkpoint
    from tests.support.checkpoints import published_vocabulary

    folder = tmp_path_factory.mktemp("published") / "small"
    folder.mkdir()
    shape = Shape(64, 128, 2, 4, 2, (2, 3, 3), 2, 48, 3, weight_spread=0.1)
    write_checkpoint(folder, shape, published_vocabulary())
    return folder
