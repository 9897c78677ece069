"""The number of parameters of a checkpoint, from the headers of its safetensors files.

Only headers are read, never a weight. A truncated file is detected.

Source: the safetensors format, an 8-byte little-endian length, that many bytes of JSON which give
each tensor's type, shape and place, then the tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

# Types that are converted to the precision which the model is loaded in.
FLOATING_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
LENGTH_BYTES = 8
# The 2B's headers have 60 kB.
MAX_HEADER_BYTES = 100_000_000


class DamagedWeightsError(Exception):
    """A file of weights is cut short or not in the safetensors format."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The size of a checkpoint's weights.

    Attributes:
        parameters: Floating-point values; what one takes depends on the precision they are
            loaded in.
        other_bytes: What quantised tensors take, in any precision.
    """

    parameters: int
    other_bytes: int = 0

    def loaded_bytes(self, bytes_per_parameter: int) -> int:
        """Return the bytes of the weights once loaded."""
        return self.parameters * bytes_per_parameter + self.other_bytes


def measure_weights(files: Sequence[Path]) -> Weights:
    """Return the size of the weights in complete safetensors files.

    Raises:
        DamagedWeightsError: A file is cut short or not in the format.
    """
    sizes = [_measure_file(path) for path in files]
    return Weights(sum(size.parameters for size in sizes), sum(size.other_bytes for size in sizes))


def expected_weights(config: Mapping[str, Any], index: Mapping[str, Any]) -> Weights | None:
    """Return the size of weights of which only the description is here.

    Args:
        config: The checkpoint's `config.json`.
        index: Its `model.safetensors.index.json`.
    """
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    if not isinstance(total, int | float):
        return None
    stored = config.get("dtype") or config.get("torch_dtype")
    return Weights(int(total) // (4 if stored == "float32" else 2))


def _measure_file(path: Path) -> Weights:
    """Return the size of one file's tensors."""
    header, data_bytes = read_header(path)
    parameters = other_bytes = end = 0
    try:
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            first, last = tensor["data_offsets"]
            end = max(end, last)
            if tensor["dtype"] in FLOATING_BYTES:
                parameters += prod(tensor["shape"])
            else:
                other_bytes += last - first
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedWeightsError(f"{path.name} is damaged") from error
    if end > data_bytes:
        raise DamagedWeightsError(f"{path.name} is cut short")
    return Weights(parameters, other_bytes)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a file's header and how many bytes follow it."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(LENGTH_BYTES))
            if length > MAX_HEADER_BYTES:
                raise DamagedWeightsError(f"{path.name} is not in the safetensors format")
            header = json.loads(file.read(length))
    except (OSError, struct.error, ValueError) as error:
        raise DamagedWeightsError(f"{path.name} is damaged") from error
    if not isinstance(header, dict):
        raise DamagedWeightsError(f"{path.name} is damaged")
    return header, path.stat().st_size - LENGTH_BYTES - length
