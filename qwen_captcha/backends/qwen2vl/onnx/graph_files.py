"""The graph files of a checkpoint, and the choice of those for this processor.

A checkpoint has graphs in fp32, and also in int8 if they are as accurate. The int8 graphs are used
if they exist and the processor has fast int8 instructions.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

FOLDER = "onnx"
# Features of x86 and ARM. Without them, x86 processors add up products of int8 with saturation,
# which changes results.
FAST_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})


class Part(StrEnum):
    """The part of the model that a graph computes."""

    VISION = "vision"
    TEXT = "text"


class Precision(StrEnum):
    """The storage and arithmetic of a graph's matrices."""

    INT8 = "int8"
    FP32 = "fp32"


def graph_path(folder: Path, part: Part, precision: Precision) -> Path:
    """Return the file of one graph of a checkpoint."""
    return folder / FOLDER / f"{part}_{precision}.onnx"


def has_graphs(folder: Path, precision: Precision = Precision.FP32) -> bool:
    """Return whether a checkpoint has all graphs of a precision."""
    return all(graph_path(folder, part, precision).is_file() for part in Part)


def choose_precision(folder: Path, flags: frozenset[str]) -> Precision:
    """Return the precision of the graphs that a processor runs.

    Args:
        folder: The checkpoint.
        flags: The processor's features.
    """
    fast = computes_int8_fast(flags) and has_graphs(folder, Precision.INT8)
    return Precision.INT8 if fast else Precision.FP32


def computes_int8_fast(flags: frozenset[str]) -> bool:
    """Return whether a processor has fast int8 instructions."""
    return not flags.isdisjoint(FAST_INT8_FLAGS)
