"""The graphs of a checkpoint in ONNX Runtime, as the search's `LanguageModel`.

A forward pass is one call that does not hold Python's interpreter lock. One thread uses a model.

Dims: B rows, N images of one size in the vision encoder, else tokens of one pass, L patches of an
image, T tokens of the prompts, K tokens so far, C width, G key-value heads, S size of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from qwen_captcha.backends.qwen2vl.arrays import Bools, Floats, Ints
from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
from qwen_captcha.backends.qwen2vl.language_model import (
    extension_mask,
    prompt_mask,
    with_later_positions,
)
from qwen_captcha.backends.qwen2vl.onnx.config import (
    ModelConfig,
    read_model_config,
    read_processor_config,
    read_vocabulary,
)
from qwen_captcha.backends.qwen2vl.onnx.graph_files import Part, Precision, graph_path
from qwen_captcha.backends.qwen2vl.onnx.rotary import Rotary, text_rotary, vision_rotary
from qwen_captcha.backends.qwen2vl.onnx.weights import (
    EMBEDDING,
    Arrays,
    Tensors,
    text_arrays,
    vision_arrays,
)
from qwen_captcha.backends.qwen2vl.preprocessing import (
    Batch,
    Grid,
    Preprocessor,
)
from qwen_captcha.checkpoints.files import SINGLE_WEIGHTS

CACHED_ROTATIONS = 64
# Level of ONNX Runtime's log: errors only.
ERRORS_ONLY = 3


@dataclass(frozen=True, slots=True)
class OnnxCache:
    """A batch after a pass.

    Attributes:
        states: Keys and values (B, G, K, S), by their names in the graph.
        attention_mask: (B, T) of the prompts.
        rotary: (B, steps - 1, S / 2) of the tokens after the prompts.
    """

    states: Mapping[str, Floats]
    attention_mask: Bools
    rotary: Rotary


def load_engine(
    folder: Path, precision: Precision, threads: int, pixel_range: tuple[int, int]
) -> Qwen2VLEngine[OnnxCache]:
    """Return the engine of a checkpoint with graphs.

    Raises:
        KeyError: A weight or an entry of a file is missing.
        OSError: A file is missing.
        ValueError: A file is damaged, or a graph is of another model.
    """
    model = OnnxModel(folder, read_model_config(folder), precision, threads)
    preprocessor = Preprocessor(read_processor_config(folder, pixel_range))
    return Qwen2VLEngine(model, preprocessor, read_vocabulary(folder, model.vocabulary_size))


class OnnxModel:
    """Runs a checkpoint's graphs on the CPU; see `LanguageModel`.

    Args:
        folder: The checkpoint.
        config: The parameters of its model.
        precision: Precision of the graphs to run.
        threads: Threads that share one operator of the vision encoder.
    """

    def __init__(
        self, folder: Path, config: ModelConfig, precision: Precision, threads: int
    ) -> None:
        tensors = Tensors(folder / SINGLE_WEIGHTS)
        self._config = config
        self._embeddings = tensors[EMBEDDING]  # (V, C)
        # The sessions use the memory of these arrays.
        self._arrays = vision_arrays(tensors, precision), text_arrays(tensors, precision)
        vision_values, text_values = self._arrays
        path = graph_path(folder, Part.VISION, precision)
        # All threads read a single image; of several images, each is read by one thread.
        self._vision = _session(path, vision_values, threads)
        self._vision_beside_others = (
            self._vision if threads == 1 else _session(path, vision_values, 1)
        )
        self._pool = ThreadPoolExecutor(threads, "vision")
        # One thread, because its operators are small. With a pool, whose threads would spin beside
        # the vision encoder's, two cores read 86 images a second from 16 clients instead of 118.
        self._text = _session(graph_path(folder, Part.TEXT, precision), text_values, 1)
        self._vision_head_size = _dim(self._vision, "cos") * 2
        self._head_size = _dim(self._text, "cos") * 2
        self._state_names = [
            name.name
            for name in self._text.get_inputs()
            if name.name.startswith(("keys", "values"))
        ]
        self._vision_rotary = lru_cache(maxsize=CACHED_ROTATIONS)(self._build_vision_rotary)

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens that the model can choose among."""
        return len(self._embeddings)

    def prefill(self, batch: Batch, drafted: Ints, steps: int) -> tuple[OnnxCache, Floats]:
        """Read the images and prompts of a batch."""
        rows, tokens = batch.input_ids.shape
        end = tokens + drafted.shape[1]
        embeddings = self._embeddings[np.concatenate([batch.input_ids, drafted], axis=1)]
        embeddings[:, :tokens][batch.is_image] = self._encode_images(batch)
        rotary = text_rotary(
            with_later_positions(batch.position_ids, steps),
            head_size=self._head_size,
            theta=self._config.theta,
            sections=self._config.mrope_sections,
        )
        nothing = np.empty((rows, self._config.key_value_heads, 0, self._head_size), np.float32)
        states, log_probabilities = self._forward(
            embeddings,
            rotary.between(0, end),
            prompt_mask(batch.attention_mask, drafted.shape[1]),
            dict.fromkeys(self._state_names, nothing),
            wanted=1 + drafted.shape[1],
        )
        later = rotary.between(tokens, tokens + steps - 1)
        return OnnxCache(states, batch.attention_mask, later), log_probabilities

    def extend(
        self, cache: OnnxCache, tokens: Ints, cached: int, rows: Ints | None = None
    ) -> tuple[OnnxCache, Floats]:
        """Read more tokens."""
        attention_mask, rotary, states = cache.attention_mask, cache.rotary, cache.states
        before, count = attention_mask.shape[1] + cached, tokens.shape[1]
        if rows is not None:
            attention_mask, rotary = attention_mask[rows], rotary.rows(rows)
            states = {name: array[rows] for name, array in states.items()}
        states, log_probabilities = self._forward(
            self._embeddings[tokens],
            rotary.between(cached, cached + count),
            extension_mask(attention_mask, cached, count),
            {name: array[:, :, :before] for name, array in states.items()},
            wanted=count,
        )
        return OnnxCache(states, attention_mask, rotary), log_probabilities

    def _encode_images(self, batch: Batch) -> Floats:
        """Return the image tokens (P / 4, C) of a batch, image after image.

        Each image has a call of its own. An int8 operator scales its whole input, so that in one
        call the result of an image would depend on the others.
        """
        if len(batch.grids) == 1:
            return self._encode_image(self._vision, batch.pixel_values, batch.grids[0])
        lengths = [grid.rows * grid.columns for grid in batch.grids]
        parts = np.split(batch.pixel_values, np.cumsum(lengths)[:-1])  # (L, values) each
        encode = partial(self._encode_image, self._vision_beside_others)
        return np.concatenate(list(self._pool.map(encode, parts, batch.grids)))

    def _encode_image(
        self, session: onnxruntime.InferenceSession, patches: Floats, grid: Grid
    ) -> Floats:
        """Return the tokens (L / 4, C) of one image's patches (L, values)."""
        cos, sin = (part[None] for part in self._vision_rotary(grid))
        inputs = {"patches": patches[None], "cos": cos, "sin": sin}
        [tokens] = _run(session, ["tokens"], inputs)  # (1, L / 4, C)
        seen: Floats = tokens[0]
        return seen

    def _forward(
        self,
        embeddings: Floats,
        rotary: Rotary,
        mask: Bools | None,
        states: Mapping[str, Floats],
        wanted: int,
    ) -> tuple[Mapping[str, Floats], Floats]:
        """Return keys and values so far, and the log-probabilities after the last tokens."""
        rows, tokens, _ = embeddings.shape
        before = next(iter(states.values())).shape[2]
        if mask is None:
            mask = np.tri(tokens, before + tokens, before, dtype=np.bool_)[None, None]
        inputs = {
            "embeddings": embeddings,
            "cos": rotary.cos,
            "sin": rotary.sin,
            "mask": np.broadcast_to(mask, (rows, 1, *mask.shape[2:])),
            "wanted": np.array([-wanted]),
            **states,
        }
        names = [f"new_{name}" for name in self._state_names]
        log_probabilities, *new = _run(self._text, ["log_probabilities", *names], inputs)
        return dict(zip(self._state_names, new, strict=True)), log_probabilities

    def _build_vision_rotary(self, grid: Grid) -> Rotary:
        return vision_rotary(
            grid,
            head_size=self._vision_head_size,
            theta=self._config.vision_theta,
            merge_size=self._config.merge_size,
        )


def _session(path: Path, arrays: Arrays, threads: int) -> onnxruntime.InferenceSession:
    """Return a graph with its weights, ready to run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = ERRORS_ONLY
    # Threads spin while they wait for the next operator, but not for the next image.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), values)
    # Loaded from bytes: with a path, ONNX Runtime would look for the weights in its folder.
    try:
        return onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors have no base class.
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{path.name} does not fit the weights: {reason}") from error


def _dim(session: onnxruntime.InferenceSession, name: str) -> int:
    """Return the size of an input's last dim."""
    [size] = [entry.shape[-1] for entry in session.get_inputs() if entry.name == name]
    return int(size)


def _run(
    session: onnxruntime.InferenceSession,
    outputs: Sequence[str],
    inputs: Mapping[str, NDArray[Any]],
) -> list[Floats]:
    arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
    results: list[Floats] = session.run(outputs, arrays)
    return results
