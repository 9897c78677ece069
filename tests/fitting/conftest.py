"""A small checkpoint that can be fitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation.published_layout import Shape, write_checkpoint
from tests.support.checkpoints import PIXEL_RANGE, published_vocabulary, write_small_checkpoint

FACTS = {
    "follows_prompts": False,
    "answers_questions": False,
    "pixel_range": list(PIXEL_RANGE),
    "crops_to_text": True,
}


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a checkpoint that reads digits and small letters, at random."""
    return write_small_checkpoint(tmp_path_factory.mktemp("base") / "small", FACTS)


@pytest.fixture(scope="session")
def published_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small checkpoint in the layout of the published ones."""
    folder = tmp_path_factory.mktemp("published") / "small"
    folder.mkdir()
    shape = Shape(64, 128, 2, 4, 2, (2, 3, 3), 2, 48, 3, weight_spread=0.1)
    write_checkpoint(folder, shape, published_vocabulary())
    return folder
