"""A checkpoint's weights in the layout of the graphs of ONNX Runtime.

The graphs hold no weights: their initializers are filled from `model.safetensors` when a model is
loaded, so that a checkpoint has one file of weights for every precision. Matrices have the
shape (inputs, outputs), layers that share their input are one matrix, and the patch embedding is
that of one frame, because the frames of a still image are equal.

Dims: I inputs and O outputs of a linear layer, C width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qwen_captcha.backends.qwen2vl.arrays import Floats
from qwen_captcha.backends.qwen2vl.onnx.graph_files import Precision
from qwen_captcha.checkpoints.safetensors_header import read_header

Arrays = dict[str, NDArray[np.generic]]

# Largest absolute value of a quantised weight.
INT8_LIMIT = 127
EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
# Suffixes of the initializers of one layer.
WEIGHT, BIAS, SCALE = ".weight", ".bias", ".scale"


class Tensors(Mapping[str, Floats]):
    """The tensors of a safetensors file of bf16 or fp32, by name.

    A tensor is read and converted to fp32 on access, so that only one of them is in memory beside
    the initializers.

    Args:
        path: The file.

    Raises:
        DamagedWeightsError: The file is not in the format.
    """

    def __init__(self, path: Path) -> None:
        header, data_bytes = read_header(path)
        self._entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        start = path.stat().st_size - data_bytes
        self._data = np.memmap(path, dtype=np.uint8, mode="r", offset=start)

    def __getitem__(self, name: str) -> Floats:
        entry = self._entries[name]
        first, last = entry["data_offsets"]
        return _as_fp32(self._data[first:last], entry["dtype"], name).reshape(entry["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _as_fp32(data: NDArray[np.uint8], dtype: str, name: str) -> Floats:
    if dtype == "F32":
        return np.array(data.view(np.float32))
    if dtype == "BF16":
        # The upper half of a float32.
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    raise ValueError(f"The weight {name} is stored as {dtype}: only BF16 and F32 are read.")


def vision_arrays(tensors: Mapping[str, Floats], precision: Precision) -> Arrays:
    """Return the initializers of the vision encoder's graph, by name."""
    kernel = tensors["visual.patch_embed.proj.weight"].sum(axis=2)  # (C, channels, 14, 14)
    arrays: Arrays = {"patch_embed.weight": _transposed(kernel.reshape(len(kernel), -1))}
    for number in range(_depth(tensors, "visual.blocks.")):
        block, layer = f"visual.blocks.{number}.", f"{number}."
        arrays |= _norm(tensors, block + "norm1", layer + "norm1")
        arrays |= _linear(tensors, [block + "attn.qkv"], layer + "qkv", precision)
        arrays |= _linear(tensors, [block + "attn.proj"], layer + "mix", precision)
        arrays |= _norm(tensors, block + "norm2", layer + "norm2")
        arrays |= _linear(tensors, [block + "mlp.fc1"], layer + "widen", precision)
        arrays |= _linear(tensors, [block + "mlp.fc2"], layer + "narrow", precision)
    arrays |= _norm(tensors, "visual.merger.ln_q", "merger.norm")
    arrays |= _linear(tensors, ["visual.merger.mlp.0"], "merger.widen", precision)
    arrays |= _linear(tensors, ["visual.merger.mlp.2"], "merger.narrow", precision)
    return arrays


def text_arrays(tensors: Mapping[str, Floats], precision: Precision) -> Arrays:
    """Return the initializers of the text decoder's graph, by name."""
    arrays: Arrays = {}
    for number in range(_depth(tensors, "model.layers.")):
        layer, name = f"model.layers.{number}.", f"{number}."
        states = [f"{layer}self_attn.{part}_proj" for part in "qkv"]
        gates = [f"{layer}mlp.{part}_proj" for part in ("gate", "up")]
        arrays |= _norm(tensors, layer + "input_layernorm", name + "norm1")
        arrays |= _linear(tensors, states, name + "qkv", precision)
        arrays |= _linear(tensors, [layer + "self_attn.o_proj"], name + "mix", precision)
        arrays |= _norm(tensors, layer + "post_attention_layernorm", name + "norm2")
        arrays |= _linear(tensors, gates, name + "gates", precision)
        arrays |= _linear(tensors, [layer + "mlp.down_proj"], name + "down", precision)
    arrays |= _norm(tensors, "model.norm", "norm")
    head = _HEAD if _HEAD in tensors else EMBEDDING
    arrays |= _linear(tensors, [head.removesuffix(WEIGHT)], "head", precision)
    return arrays


def _depth(tensors: Mapping[str, Floats], prefix: str) -> int:
    """Return the number of layers with weights."""
    return len({name[len(prefix) :].split(".")[0] for name in tensors if name.startswith(prefix)})


def _norm(tensors: Mapping[str, Floats], source: str, name: str) -> Arrays:
    return {
        name + suffix: tensors[source + suffix]
        for suffix in (WEIGHT, BIAS)
        if source + suffix in tensors
    }


def _linear(
    tensors: Mapping[str, Floats], sources: list[str], name: str, precision: Precision
) -> Arrays:
    """Return the initializers of linear layers with the same input, as one matrix."""
    weight = _transposed(np.concatenate([tensors[source + WEIGHT] for source in sources]))  # (I, O)
    arrays: Arrays = {}
    if precision is Precision.INT8:
        arrays[name + WEIGHT], arrays[name + SCALE] = quantize(weight)
    else:
        arrays[name + WEIGHT] = weight
    if sources[0] + BIAS in tensors:
        arrays[name + BIAS] = np.concatenate([tensors[source + BIAS] for source in sources])
    return arrays


def quantize(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return a matrix (I, O) in int8, and the scale of each output, (O,)."""
    scale = np.maximum(np.abs(weight).max(axis=0), np.finfo(np.float32).tiny) / INT8_LIMIT
    return np.rint(weight / scale).astype(np.int8), scale.astype(np.float32)


def _transposed(weight: Floats) -> Floats:
    return np.ascontiguousarray(weight.T)
