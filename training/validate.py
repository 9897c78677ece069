"""Exact match of a checkpoint on rendered captchas of typefaces that training never used.

Responsible for: the fixed validation set, the last level's looks in held-out fonts. Invariant:
the same seed and fonts give the same images, so that figures of different runs compare.

Run: `python -m training.validate CHECKPOINT [--batches 32]`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from training.curriculum import LEVELS
from training.dataset import draw_batch
from training.fonts import FontLibrary
from training.objective import Objective

VALIDATION_SEED = 20_000_000
_BATCH_SIZE = 32


@torch.inference_mode()
def validate(objective: Objective, batches: int) -> dict[str, float]:
    """Return the exact match of each kind, as drawn and (`_caseless`) ignoring letter case."""
    fonts = FontLibrary.open(held_out=True)
    device = next(objective.parameters()).device
    hits: dict[str, list[bool]] = defaultdict(list)
    for index in range(batches):
        batch = draw_batch(LEVELS[-1], index, fonts, VALIDATION_SEED, _BATCH_SIZE)
        outcome = objective(batch.images.to(device), batch.labels, batch.boxes.to(device))
        for kind, exact, caseless in zip(
            batch.kinds, outcome.exact.tolist(), outcome.caseless.tolist(), strict=True
        ):
            hits[kind].append(exact)
            hits[f"{kind}_caseless"].append(caseless)
    return {kind: round(sum(kind_hits) / len(kind_hits), 4) for kind, kind_hits in hits.items()}


def main() -> None:
    """Print the figures of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batches", type=int, default=32, help=f"of {_BATCH_SIZE} images")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        arguments.checkpoint, dtype=torch.float32
    )
    tokenizer = AutoProcessor.from_pretrained(arguments.checkpoint).tokenizer
    objective = Objective(model, tokenizer).eval()
    print(json.dumps(validate(objective, arguments.batches), indent=2))


if __name__ == "__main__":
    main()
