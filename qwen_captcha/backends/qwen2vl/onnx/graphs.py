"""The graphs of a small Qwen2-VL for ONNX Runtime, from the shapes of its weights.

One graph is the vision encoder, the other the text decoder, which prefills prompts and extends
them. They contain no weights, see `weights`: a graph has some tens of kB and fits all checkpoints
of its shape.

Dims: N images of one size, L patches of one of them, B rows, T tokens of a pass, K tokens so far,
W last tokens whose results are returned, C width, H heads, G key-value heads, S size of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from qwen_captcha.backends.qwen2vl.onnx.config import ModelConfig
from qwen_captcha.backends.qwen2vl.onnx.weights import BIAS, SCALE, WEIGHT, Arrays

OPSET = 23
# Domain of the fused operators of ONNX Runtime.
CONTRIB = "com.microsoft"
# Version of the file format; older versions of ONNX Runtime read it, too.
IR_VERSION = 11
# Required by the format and never read: the arrays come from memory.
EXTERNAL_LOCATION = "model.safetensors"


class _Graph:
    """A graph under construction; methods that add an operator return its result's name."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator; return the name of its output."""
        [output] = self.add_several(1, operator, *inputs, domain=domain, **attributes)
        return output

    def add_several(
        self, outputs: int, operator: str, *inputs: str, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Add an operator; return the names of its outputs."""
        names = [f"{operator}_{len(self._nodes)}_{number}" for number in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, names, domain=domain, **attributes))
        return names

    def numbers(self, *values: int) -> str:
        """Add a constant vector of integers; return its name."""
        name = "numbers_" + "_".join(map(str, values))
        self._constants[name] = helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        return name

    def linear(self, states: str, name: str) -> str:
        """Add a linear layer over the last dim."""
        bias = name + BIAS if name + BIAS in self._arrays else ""
        if name + SCALE in self._arrays:
            inputs = [states, name + WEIGHT, name + SCALE, "", *([bias] if bias else [])]
            return self.add("DynamicQuantizeMatMul", *inputs, domain=CONTRIB)
        product = self.add("MatMul", states, name + WEIGHT)
        return self.add("Add", product, bias) if bias else product

    def shaped(self, states: str, *shape: int) -> str:
        """Add a reshape; 0 copies a dim, -1 is the rest."""
        return self.add("Reshape", states, self.numbers(*shape))

    def last(self, states: str, wanted: str, axis: int) -> str:
        """Add a slice of the last positions of an axis; `wanted` names their negative number."""
        return self.add("Slice", states, wanted, self.numbers(2**31 - 1), self.numbers(axis))

    def model(
        self,
        name: str,
        inputs: Mapping[str, Sequence[int | str]],
        outputs: Mapping[str, tuple[str, Sequence[int | str]]],
    ) -> onnx.ModelProto:
        """Return the model; outputs map names to the results in the graph, with their shapes."""
        for output, (source, _) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [source], [output]))
        initializers = [_external(key, array) for key, array in self._arrays.items()]
        graph = helper.make_graph(
            self._nodes,
            name,
            [_value(key, shape) for key, shape in inputs.items()],
            [_value(key, shape) for key, (_, shape) in outputs.items()],
            [*self._constants.values(), *initializers],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def vision_graph(arrays: Arrays, config: ModelConfig) -> onnx.ModelProto:
    """Return the vision encoder.

    Inputs: `patches` (N, L, values), `cos` and `sin` (N, L, S / 2). Output: `tokens` (N, L / 4, C).
    """
    graph = _Graph(arrays)
    heads, cell_patches = config.vision_heads, config.merge_size**2
    values, width = arrays["patch_embed.weight"].shape
    hidden = graph.add("MatMul", "patches", "patch_embed.weight")
    number = 0
    while f"{number}.norm1.weight" in arrays:
        layer = f"{number}."
        normed = _layer_norm(graph, hidden, layer + "norm1")
        states = graph.linear(normed, layer + "qkv")  # (N, L, 3 * C)
        query, key, value = graph.add_several(3, "Split", states, axis=-1, num_outputs=3)
        query, key = (
            graph.add("RotaryEmbedding", part, "cos", "sin", num_heads=heads)
            for part in (query, key)
        )
        seen = graph.add("MultiHeadAttention", query, key, value, num_heads=heads, domain=CONTRIB)
        hidden = graph.add("Add", hidden, graph.linear(seen, layer + "mix"))
        inner = graph.linear(_layer_norm(graph, hidden, layer + "norm2"), layer + "widen")
        inner = graph.add("QuickGelu", inner, alpha=1.702, domain=CONTRIB)
        hidden = graph.add("Add", hidden, graph.linear(inner, layer + "narrow"))
        number += 1
    normed = _layer_norm(graph, hidden, "merger.norm")
    squares = graph.shaped(normed, 0, -1, cell_patches * width)
    inner = graph.add("Gelu", graph.linear(squares, "merger.widen"))
    tokens = graph.linear(inner, "merger.narrow")
    return graph.model(
        "vision",
        {
            "patches": ["N", "L", values],
            "cos": ["N", "L", width // heads // 2],
            "sin": ["N", "L", width // heads // 2],
        },
        {"tokens": (tokens, ["N", "L / 4", arrays["merger.narrow.bias"].shape[0]])},
    )


def text_graph(arrays: Arrays, config: ModelConfig) -> onnx.ModelProto:
    """Return the text decoder.

    Inputs: `embeddings` (B, T, C), `cos` and `sin` (B, T, S / 2), `mask` (B, 1, T, K),
    `wanted` (1,), which is -W, and for each layer `keys_0` and `values_0` (B, G, K - T, S) so far.
    Outputs: `log_probabilities` (B, W, V) and for each layer `new_keys_0` and `new_values_0`
    (B, G, K, S).
    """
    graph = _Graph(arrays)
    heads, key_value_heads, epsilon = config.heads, config.key_value_heads, config.epsilon
    width = arrays["norm.weight"].shape[0]
    size = arrays["0.mix.weight"].shape[0] // heads
    past: dict[str, Sequence[int | str]] = {}
    present: dict[str, tuple[str, Sequence[int | str]]] = {}
    layers = 0
    while f"{layers}.norm1.weight" in arrays:
        layers += 1
    hidden, mask = "embeddings", "mask"
    for number in range(layers):
        layer = f"{number}."
        normed = _rms_norm(graph, hidden, layer + "norm1", epsilon)
        states = graph.linear(normed, layer + "qkv")  # (B, T, (H + 2 * G) * S)
        sizes = graph.numbers(heads * size, key_value_heads * size, key_value_heads * size)
        query, key, value = graph.add_several(3, "Split", states, sizes, axis=-1)
        query = graph.add("RotaryEmbedding", query, "cos", "sin", num_heads=heads)
        key = graph.add("RotaryEmbedding", key, "cos", "sin", num_heads=key_value_heads)
        if number == layers - 1:
            hidden, query = graph.last(hidden, "wanted", 1), graph.last(query, "wanted", 1)
            mask = graph.last(mask, "wanted", 2)
        seen, keys, values = graph.add_several(
            3,
            "Attention",
            query,
            key,
            value,
            mask,
            f"keys_{number}",
            f"values_{number}",
            q_num_heads=heads,
            kv_num_heads=key_value_heads,
        )
        for kind, name in (("keys", keys), ("values", values)):
            past[f"{kind}_{number}"] = ["B", key_value_heads, "K - T", size]
            present[f"new_{kind}_{number}"] = (name, ["B", key_value_heads, "K", size])
        hidden = graph.add("Add", hidden, graph.linear(seen, layer + "mix"))
        gates = graph.linear(_rms_norm(graph, hidden, layer + "norm2", epsilon), layer + "gates")
        gate, up = graph.add_several(2, "Split", gates, axis=-1, num_outputs=2)
        inner = graph.add("Mul", graph.add("Mul", gate, graph.add("Sigmoid", gate)), up)
        hidden = graph.add("Add", hidden, graph.linear(inner, layer + "down"))
    logits = graph.linear(_rms_norm(graph, hidden, "norm", epsilon), "head")
    log_probabilities = graph.add("LogSoftmax", logits, axis=-1)
    return graph.model(
        "text",
        {
            "embeddings": ["B", "T", width],
            "cos": ["B", "T", size // 2],
            "sin": ["B", "T", size // 2],
            "mask": ["B", 1, "T", "K"],
            "wanted": [1],
            **past,
        },
        {
            "log_probabilities": (log_probabilities, ["B", "W", arrays["head.weight"].shape[1]]),
            **present,
        },
    )


def _layer_norm(graph: _Graph, states: str, name: str) -> str:
    inputs = (states, name + WEIGHT, name + BIAS)
    return graph.add("LayerNormalization", *inputs, axis=-1, epsilon=1e-6)


def _rms_norm(graph: _Graph, states: str, name: str, epsilon: float) -> str:
    return graph.add("RMSNormalization", states, name + WEIGHT, axis=-1, epsilon=epsilon)


def _value(name: str, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    kinds = {"mask": TensorProto.BOOL, "wanted": TensorProto.INT64}
    return helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)


def _external(name: str, array: NDArray[np.generic]) -> onnx.TensorProto:
    """Return an initializer whose values are set when the graph is loaded."""
    tensor = onnx.TensorProto(
        name=name,
        dims=array.shape,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        data_location=TensorProto.EXTERNAL,
    )
    tensor.external_data.add(key="location", value=EXTERNAL_LOCATION)
    return tensor
