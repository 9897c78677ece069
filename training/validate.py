"""Measure the exact match of a checkpoint on captchas in typefaces that training never used.

    python -m training.validate CHECKPOINT [--images 2000]

The set is fixed: the last level's styles in held-out fonts, preprocessed as the service does. The
same fonts give the same images, so that figures of different runs compare.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from training.held_out import draw_held_out
from training.learning.augmentation import Captcha
from training.learning.curriculum import Grid
from training.learning.dataset import Shown, batch_of, grid_shown, show
from training.learning.objective import Objective
from training.learning.real_captchas import is_archive, read_archives
from training.rendering.fonts import FontLibrary

VALIDATION_SEED = 20_000_000
_BATCH_SIZE = 32


@torch.inference_mode()
def validate(objective: Objective, captchas: Iterable[Captcha]) -> dict[str, float]:
    """Return the exact match of each kind, as drawn and (`_caseless`) ignoring letter case.

    Args:
        objective: Holds the model; in evaluation mode, so that whole answers are greedy ones.
        captchas: What to read, shown as the service shows it.
    """
    by_grid: dict[Grid, list[Shown]] = defaultdict(list)
    for captcha in captchas:
        shown = show(captcha)
        by_grid[grid_shown(shown.image.size)].append(shown)
    hits: dict[str, list[bool]] = defaultdict(list)
    for grid, group in sorted(by_grid.items()):
        for start in range(0, len(group), _BATCH_SIZE):
            batch = batch_of(group[start : start + _BATCH_SIZE], grid)
            outcome = objective(batch)
            rows = zip(
                batch.kinds,
                batch.families,
                outcome.exact.tolist(),
                outcome.caseless.tolist(),
                strict=True,
            )
            for kind, family, exact, caseless in rows:
                hits[kind].append(exact)
                hits[f"{kind}_caseless"].append(caseless)
                if family:
                    hits[f"family {family}"].append(caseless)
    figures = {name: round(sum(found) / len(found), 4) for name, found in sorted(hits.items())}
    families = [value for name, value in figures.items() if name.startswith("family ")]
    if families:
        figures["mean over families"] = round(sum(families) / len(families), 4)
    return figures


def rendered(images: int, fonts: FontLibrary) -> Iterator[Captcha]:
    """Yield the fixed set of rendered captchas in held-out faces."""
    for drawn, text, kind in draw_held_out(images, fonts, VALIDATION_SEED):
        yield Captcha(drawn.image, text.replace(" ", ""), kind, drawn.boxes)


def real(folder: Path, *, held_out: bool) -> Iterator[Captcha]:
    """Yield captchas of real generators, the families of a folder.

    Args:
        folder: Holds an archive or a labelled folder for each family.
        held_out: Take only those that training never uses, of archives that it draws from.
    """
    paths = sorted(path for path in folder.iterdir() if is_archive(path))
    shares = (True,) if held_out else (True, False)
    for share in shares:
        for one in read_archives(paths, held_out=share):
            yield Captcha(one.pixels, one.text, one.kind, None, one.family)


def main() -> None:
    """Print the figures of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=2000, help="how many to draw (2000)")
    parser.add_argument("--real", type=Path, help="read the kept part of these archives instead")
    parser.add_argument("--folder", type=Path, help="read all of these labelled folders instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = Qwen2VLForConditionalGeneration.from_pretrained(
        arguments.checkpoint, dtype=torch.float32
    )
    tokenizer = AutoProcessor.from_pretrained(arguments.checkpoint).tokenizer
    objective = Objective(model, tokenizer).eval()
    captchas = (
        real(arguments.real, held_out=True)
        if arguments.real
        else real(arguments.folder, held_out=False)
        if arguments.folder
        else rendered(arguments.images, FontLibrary.open(held_out=True))
    )
    figures = validate(objective, captchas)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
