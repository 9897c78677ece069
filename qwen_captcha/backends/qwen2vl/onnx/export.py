"""Export of the graphs of a checkpoint to its folder.

This module and `graphs` need the package onnx; serving does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qwen_captcha.backends.qwen2vl.onnx.config import (
    read_model_config,
    read_processor_config,
    read_vocabulary,
)
from qwen_captcha.backends.qwen2vl.onnx.graph_files import Part, Precision, graph_path
from qwen_captcha.backends.qwen2vl.onnx.weights import (
    EMBEDDING,
    Tensors,
    text_arrays,
    vision_arrays,
)
from qwen_captcha.checkpoints.files import SINGLE_WEIGHTS, inspect_checkpoint
from qwen_captcha.errors import ModelLoadError

# The graphs are for models with which a CPU reads in milliseconds. Larger ones would take much
# memory in fp32, and their accuracy in int8 was not measured.
MAX_PARAMETERS = 100_000_000


def export_graphs(folder: Path, precisions: Sequence[Precision] = tuple(Precision)) -> list[Path]:
    """Write the graphs of a checkpoint, and remove those of other precisions; return their files.

    Raises:
        ModelLoadError: The checkpoint is incomplete, or the graphs do not support it.
    """
    try:
        from qwen_captcha.backends.qwen2vl.onnx.graphs import text_graph, vision_graph
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            "The export needs the package onnx, which is not installed: "
            "pip install -r requirements_qwen.txt."
        ) from error
    parameters = inspect_checkpoint(folder, folder.name).weights.parameters
    if parameters > MAX_PARAMETERS:
        raise ModelLoadError(
            f"{folder.name} has {parameters / 1e6:.0f} million parameters: only checkpoints of up "
            f"to {MAX_PARAMETERS / 1e6:.0f} million are exported. PyTorch serves it."
        )
    try:
        config = read_model_config(folder)
        tensors = Tensors(folder / SINGLE_WEIGHTS)
        # Check that the other files that are read at the start are valid, too.
        read_processor_config(folder, pixel_range=(0, 0))
        read_vocabulary(folder, len(tensors[EMBEDDING]))
    except (KeyError, OSError, ValueError) as error:
        raise ModelLoadError(f"{folder.name} cannot be exported: {error}.") from error
    written = []
    for precision in Precision:
        graphs = {
            Part.VISION: vision_graph(vision_arrays(tensors, precision), config),
            Part.TEXT: text_graph(text_arrays(tensors, precision), config),
        }
        for part, graph in graphs.items():
            path = graph_path(folder, part, precision)
            if precision in precisions:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(graph.SerializeToString(deterministic=True))
                written.append(path)
            else:
                path.unlink(missing_ok=True)
    return written


def export_if_possible(folder: Path) -> bool:
    """Write the graphs of a checkpoint if that is possible; return whether they were written.

    Saving a checkpoint must not fail because it is too large or the package onnx is missing.
    """
    try:
        export_graphs(folder)
    except ModelLoadError:
        return False
    return True
