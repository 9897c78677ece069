"""Write rendered captchas in typefaces that training never used as a labelled folder.

    python -m training.held_out runs/held_out --images 500
    python -m evaluation.evaluate runs/held_out --model runs/next/checkpoint --html mistakes.html

There is one family for each kind. The same seed and fonts give the same folder.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from qwen_captcha.recognition.arithmetic.evaluate import evaluate_expression
from training.learning.curriculum import LEVELS
from training.learning.dataset import EASIEST, draw_captcha
from training.rendering.fonts import FontLibrary
from training.rendering.render import Drawing

SEED = 60_000_000
# What the evaluation calls the kinds of `texts.KINDS`.
_KINDS = {
    "digits": "digits",
    "latin": "alnum",
    "chinese": "chinese",
    "math": "math",
    "chinese_math": "math",
}


def draw_held_out(
    count: int, fonts: FontLibrary, seed: int, *, easiest: float = EASIEST
) -> Iterator[tuple[Drawing, str, str]]:
    """Yield captchas of the last level, each with its text as drawn and its kind.

    Args:
        count: How many.
        fonts: Held-out faces.
        seed: Fixes them all.
        easiest: Least difficulty, as a share of the level's.
    """
    level = LEVELS[-1]
    for index in range(count):
        rng = random.Random(f"{seed}/{index}")
        yield draw_captcha(level, level.choose_grid(rng), fonts, rng, easiest=easiest)


def write_folder(folder: Path, images: int, fonts: FontLibrary) -> int:
    """Write captchas of the last level; return how many, as sums without a value are left out."""
    lines: dict[str, list[str]] = defaultdict(list)
    captchas = draw_held_out(images, fonts, SEED)
    bar = tqdm(captchas, total=images, unit="image", disable=None, leave=False)
    for index, (drawing, text, kind) in enumerate(bar):
        drawn = text.replace(" ", "")
        value = evaluate_expression(drawn) if _KINDS[kind] == "math" else None
        if _KINDS[kind] == "math" and value is None:
            continue
        label = [drawn, _KINDS[kind]] if value is None else [str(value), "math", drawn]
        name = f"{index:05}.png"
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawing.image).save(folder / kind / name)
        lines[kind].append("\t".join([name, *label]))
    for kind, rows in lines.items():
        (folder / kind / "labels.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return sum(map(len, lines.values()))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=500)
    arguments = parser.parse_args()
    count = write_folder(arguments.folder, arguments.images, FontLibrary.open(held_out=True))
    print(f"{arguments.folder}: {count} images")


if __name__ == "__main__":
    main()
