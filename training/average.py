"""Average checkpoints of one line of training into one that reads better than each of them.

Responsible for: the mean of the weights, and saying of what it is one. Weights from the ends of
several runs, each started from the one before, lie in one basin, and their mean lies deeper in it
than they do. It costs no training, and nothing when reading. Source: Wortsman et al. 2022,
https://arxiv.org/abs/2203.05482. Invariant: checkpoints of different shapes are refused.

Run: `python -m training.average OUT CHECKPOINT CHECKPOINT ...`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from training.build import save_checkpoint


class UnlikeCheckpointsError(ValueError):
    """The checkpoints do not have the same weights."""


@torch.no_grad()
def average(folders: Sequence[Path]) -> Qwen2VLForConditionalGeneration:
    """Return a model in fp32 whose weights are the mean of those of the checkpoints.

    Args:
        folders: Checkpoints, at least one.

    Raises:
        UnlikeCheckpointsError: They differ in shape.
    """
    models = [
        Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        for folder in folders
    ]
    states = [model.state_dict() for model in models]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    for folder, other in zip(folders, shapes, strict=True):
        if other != shapes[0]:
            raise UnlikeCheckpointsError(f"{folder} is not of the shape of {folders[0]}.")
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    models[0].load_state_dict(mean)
    return models[0]


def _description(folder: Path) -> object:
    """Return how a checkpoint came about, its folder's name where it does not say."""
    file = folder / "training.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else folder.name


def main() -> None:
    """Write the mean of checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the new checkpoint")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="folders to average")
    arguments = parser.parse_args()
    try:
        model = average(arguments.checkpoints)
    except (UnlikeCheckpointsError, OSError) as error:
        parser.error(str(error))
    save_checkpoint(model, AutoProcessor.from_pretrained(arguments.checkpoints[0]), arguments.out)
    description = {"mean_of": [_description(folder) for folder in arguments.checkpoints]}
    text = json.dumps(description, indent=2) + "\n"
    (arguments.out / "training.json").write_text(text, encoding="utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
