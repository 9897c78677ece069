"""Exact match of a checkpoint on rendered captchas of typefaces that training never used.

Responsible for: the fixed validation set, the last level's looks in held-out fonts, shown to the
model as the service shows them. Invariant: the same fonts give the same images, so that figures of
different runs compare.

Run: `python -m training.validate CHECKPOINT [--images 2000]`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from qwen_captcha.images.crop import text_box
from training.held_out import draw_held_out
from training.learning.curriculum import Grid
from training.learning.dataset import (
    batch_of,
    cropped,
    grid_shown,
)
from training.learning.objective import Objective
from training.rendering.fonts import FontLibrary
from training.rendering.render import Drawing

VALIDATION_SEED = 20_000_000
_BATCH_SIZE = 32


@torch.inference_mode()
def validate(objective: Objective, images: int, fonts: FontLibrary) -> dict[str, float]:
    """Return the exact match of each kind, as drawn and (`_caseless`) ignoring letter case.

    Args:
        objective: Holds the model; in evaluation mode, so that whole answers are greedy ones.
        images: How many to read.
        fonts: Held-out faces.
    """
    by_grid: dict[Grid, list[tuple[Drawing, str, str]]] = defaultdict(list)
    for drawn, text, kind in draw_held_out(images, fonts, VALIDATION_SEED):
        box = text_box(drawn.image)
        by_grid[grid_shown(box)].append((cropped(drawn, box), text, kind))
    device = next(objective.parameters()).device
    hits: dict[str, list[bool]] = defaultdict(list)
    for grid, captchas in sorted(by_grid.items()):
        for start in range(0, len(captchas), _BATCH_SIZE):
            batch = batch_of(captchas[start : start + _BATCH_SIZE], grid)
            outcome = objective(batch.images.to(device), batch.labels, batch.boxes.to(device))
            for kind, exact, caseless in zip(
                batch.kinds, outcome.exact.tolist(), outcome.caseless.tolist(), strict=True
            ):
                hits[kind].append(exact)
                hits[f"{kind}_caseless"].append(caseless)
    return {kind: round(sum(found) / len(found), 4) for kind, found in sorted(hits.items())}


def main() -> None:
    """Print the figures of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=2000, help="how many to read (2000)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        arguments.checkpoint, dtype=torch.float32
    )
    tokenizer = AutoProcessor.from_pretrained(arguments.checkpoint).tokenizer
    objective = Objective(model, tokenizer).eval()
    figures = validate(objective, arguments.images, FontLibrary.open(held_out=True))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
