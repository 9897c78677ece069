"""The vocabulary of Qwen2, from a file in the package `dashscope`.

Package registries carry no other copy. The package's tiktoken file is read; its code is not run.
Ids are those of the published checkpoints: byte-level tokens by rank, then the special tokens from
151643.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

# In the order of their ids, from 151643 (`<|endoftext|>`) to 151656 (`<|video_pad|>`).
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Byte-level tokens and how they are merged, in the spelling of `vocab.json`.

    Attributes:
        ids: Token -> id, without the special tokens.
        merges: Pairs of tokens, the most frequent first.
        special_ids: Special token -> id.
    """

    ids: dict[str, int]
    merges: list[tuple[str, str]]
    special_ids: dict[str, int]


def read_vocabulary() -> Vocabulary:
    """Return the vocabulary; it takes seconds.

    Raises:
        FileNotFoundError: The package `dashscope` is not installed.
    """
    ranks = _read_ranks(_tiktoken_file())
    spelling = _byte_spelling()
    ids = {_spell(token, spelling): rank for token, rank in ranks.items()}
    merges = [
        (_spell(left, spelling), _spell(right, spelling))
        for left, right in (_last_merge(token, ranks) for token in ranks if len(token) > 1)
    ]
    return Vocabulary(ids, merges, {token: len(ids) + i for i, token in enumerate(SPECIAL_TOKENS)})


def _tiktoken_file() -> Path:
    package = find_spec("dashscope")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("The vocabulary is in the package dashscope: pip install it.")
    return Path(package.submodule_search_locations[0]) / "resources" / "qwen.tiktoken"


def _read_ranks(path: Path) -> dict[bytes, int]:
    """Return the tokens of a tiktoken file with their ranks, in rank order."""
    pairs = (line.split() for line in path.read_bytes().splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens that were merged into `token`.

    They are the parts of byte-pair encoding before its last merge.
    """
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        index = joined.index(min(joined))
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts[0], parts[1]


def _byte_spelling() -> list[str]:
    """Return the character that represents each byte: itself if it is printable.

    Source: the byte-level encoding of GPT-2, which all these files share.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spelling = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in spelling)
    spelling.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return [spelling[byte] for byte in range(256)]


def _spell(token: bytes, spelling: list[str]) -> str:
    return "".join(spelling[byte] for byte in token)
