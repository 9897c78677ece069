"""Average checkpoints of one line of training into one that reads better than each of them.

    python -m training.average OUT CHECKPOINT CHECKPOINT ...

Weights from the ends of several runs, each started from the one before, lie in one basin, and their
mean lies deeper in it. Averaging costs no training, and nothing when reading. Checkpoints of
different shapes are rejected. Source: Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from training.build import AUXILIARY_HEADS, build_tokenizer, save_checkpoint
from training.rendering.alphabet import HANZI_LEVEL_1, HANZI_LEVEL_2

# Names of the matrix that embeds tokens and, tied to it, distinguishes them.
_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")


class UnlikeCheckpointsError(ValueError):
    """The checkpoints do not have the same weights."""


@torch.no_grad()
def average(
    folders: Sequence[Path],
    shares: Sequence[float] | None = None,
    hanzi_shares: Sequence[float] | None = None,
) -> Qwen2VLForConditionalGeneration:
    """Return a model in fp32 whose weights are the mean of those of the checkpoints.

    Args:
        folders: Checkpoints, at least one.
        shares: What each counts, together 1; equal ones where there are none. A negative share
            goes beyond the others.
        hanzi_shares: The same for the embeddings of Chinese characters, where the last runs taught
            most of them; `shares` where there are none.

    Raises:
        UnlikeCheckpointsError: They differ in shape.
        ValueError: The shares are of another number, or do not make 1.
    """
    shares = shares or _equal_shares(folders)
    hanzi_shares = hanzi_shares or shares
    for given in (shares, hanzi_shares):
        if len(given) != len(folders) or not abs(sum(given) - 1) < 1e-6:
            raise ValueError(f"{len(folders)} shares that make 1 are needed, not {given}.")
    models = [
        Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        for folder in folders
    ]
    states = [model.state_dict() for model in models]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    for folder, other in zip(folders, shapes, strict=True):
        if other != shapes[0]:
            raise UnlikeCheckpointsError(f"{folder} is not of the shape of {folders[0]}.")
    mean = {name: _mean([state[name] for state in states], shares) for name in states[0]}
    hanzi = build_tokenizer().convert_tokens_to_ids([*HANZI_LEVEL_1, *HANZI_LEVEL_2])
    for name in _EMBEDDINGS:
        mean[name][hanzi] = _mean([state[name][hanzi] for state in states], hanzi_shares)
    models[0].load_state_dict(mean)
    return models[0]


def average_heads(
    folders: Sequence[Path], shares: Sequence[float] | None = None
) -> dict[str, torch.Tensor] | None:
    """Return the mean of the checkpoints' auxiliary heads in fp16, or None where one has none."""
    files = [folder / AUXILIARY_HEADS for folder in folders]
    if not all(file.is_file() for file in files):
        return None
    heads = [load_file(file) for file in files]
    shares = shares or _equal_shares(folders)
    return {name: _mean([one[name].float() for one in heads], shares).half() for name in heads[0]}


def _equal_shares(folders: Sequence[Path]) -> list[float]:
    return [1 / len(folders)] * len(folders)


def _mean(values: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Return the weighted mean of tensors of one shape."""
    return torch.stack([share * value for share, value in zip(shares, values, strict=True)]).sum(0)


def _description(folder: Path) -> object:
    """Return the origin of a checkpoint, its folder's name where it has none."""
    file = folder / "training.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else folder.name


def main() -> None:
    """Write the mean of checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder of the new checkpoint")
    parser.add_argument("checkpoints", type=Path, nargs="+", help="folders to average")
    parser.add_argument(
        "--shares", type=float, nargs="+", help="what each counts (default: all the same)"
    )
    parser.add_argument(
        "--hanzi-shares",
        type=float,
        nargs="+",
        help="what each counts in the embeddings of Chinese characters (default: as --shares)",
    )
    arguments = parser.parse_args()
    try:
        model = average(arguments.checkpoints, arguments.shares, arguments.hanzi_shares)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    save_checkpoint(model, AutoProcessor.from_pretrained(arguments.checkpoints[0]), arguments.out)
    heads = average_heads(arguments.checkpoints, arguments.shares)
    if heads is not None:
        save_file(heads, arguments.out / AUXILIARY_HEADS)
    description = {
        "mean_of": [_description(folder) for folder in arguments.checkpoints],
        "shares": arguments.shares,
        "hanzi_shares": arguments.hanzi_shares,
    }
    given = {name: value for name, value in description.items() if value is not None}
    text = json.dumps(given, indent=2) + "\n"
    (arguments.out / "training.json").write_text(text, encoding="utf-8")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
