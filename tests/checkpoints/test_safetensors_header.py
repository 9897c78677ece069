from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from qwen_captcha.checkpoints.safetensors_header import (
    DamagedWeightsError,
    Weights,
    expected_weights,
    measure_weights,
)

BF16_TENSOR = {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]}


def safetensors_bytes(header: Any, data_bytes: int) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data_bytes)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(header: Any, data_bytes: int, name: str = "model.safetensors") -> Path:
        path = tmp_path / name
        path.write_bytes(safetensors_bytes(header, data_bytes))
        return path

    return write_file


@pytest.mark.parametrize(
    ("header", "data_bytes", "expected"),
    [
        ({"a": BF16_TENSOR}, 24, Weights(12)),
        ({"__metadata__": {"format": "pt"}, "a": BF16_TENSOR}, 24, Weights(12)),
        ({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 20]}}, 20, Weights(5)),
        ({"a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, 4, Weights(1)),
        (
            {"a": BF16_TENSOR, "q": {"dtype": "I32", "shape": [2], "data_offsets": [24, 32]}},
            32,
            Weights(12, other_bytes=8),
        ),
        ({}, 0, Weights(0)),
    ],
    ids=["bf16", "metadata", "fp32", "scalar", "quantised", "empty"],
)
def test_parameters_are_counted_in_the_header(
    write: Any, header: Any, data_bytes: int, expected: Weights
) -> None:
    assert measure_weights([write(header, data_bytes)]) == expected


def test_shards_add_up(write: Any) -> None:
    files = [write({"a": BF16_TENSOR}, 24, name) for name in ("1.safetensors", "2.safetensors")]
    assert measure_weights(files) == Weights(24)


@pytest.mark.parametrize(
    ("header", "data_bytes", "complaint"),
    [
        ({"a": BF16_TENSOR}, 23, "cut short"),
        ({"a": {"dtype": "BF16"}}, 24, "damaged"),
        ({"a": {"dtype": "BF16", "shape": 3, "data_offsets": [0, 24]}}, 24, "damaged"),
        ({"a": {"dtype": "BF16", "shape": [3], "data_offsets": [0]}}, 24, "damaged"),
        ([BF16_TENSOR], 24, "damaged"),
    ],
    ids=["a byte missing", "no shape", "shape is no list", "no end", "no object"],
)
def test_a_damaged_file_is_detected(
    write: Any, header: Any, data_bytes: int, complaint: str
) -> None:
    with pytest.raises(DamagedWeightsError, match=f"^model.safetensors is {complaint}$"):
        measure_weights([write(header, data_bytes)])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is damaged"),
        (b"\x01\x02", "is damaged"),
        (b"<html>not found</html>", "is not in the safetensors format"),
        (safetensors_bytes({"a": BF16_TENSOR}, 24)[:30], "is damaged"),
        (struct.pack("<Q", 4) + b"\xff\xff\xff\xff", "is damaged"),
    ],
    ids=["empty", "two bytes", "an error page", "cut in the header", "no text"],
)
def test_a_file_that_is_no_safetensors_is_detected(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedWeightsError, match=complaint):
        measure_weights([path])


def test_a_missing_file_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedWeightsError):
        measure_weights([tmp_path / "model.safetensors"])


@pytest.mark.parametrize(
    ("config", "index", "expected"),
    [
        ({"torch_dtype": "bfloat16"}, {"metadata": {"total_size": 20}}, Weights(10)),
        ({"dtype": "float32"}, {"metadata": {"total_size": 20}}, Weights(5)),
        ({}, {"metadata": {"total_size": 20.0}}, Weights(10)),
        ({}, {"metadata": {}}, None),
        ({}, {"metadata": None}, None),
        ({}, {}, None),
    ],
)
def test_the_size_is_known_from_the_index(
    config: Any, index: Any, expected: Weights | None
) -> None:
    assert expected_weights(config, index) == expected


def test_loaded_bytes_depend_on_the_precision() -> None:
    assert Weights(10, other_bytes=3).loaded_bytes(4) == 43
    assert Weights(10, other_bytes=3).loaded_bytes(2) == 23
