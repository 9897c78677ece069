from __future__ import annotations

import pytest

from qwen_captcha.backends.qwen2vl.pytorch.placement import (
    GIB,
    Gpu,
    LoadPlan,
    Precision,
    plan_for_cpu,
    plan_for_gpus,
)
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.errors import ModelLoadError

TINY = Weights(8_000_000)
TWO_B = Weights(2_209_000_000)
SEVENTY_TWO_B = Weights(73_400_000_000)
PLAIN = frozenset({"avx2", "avx512f"})
BF16 = LoadPlan(Precision.BF16)
FP32 = LoadPlan(Precision.FP32)


@pytest.mark.parametrize(
    ("weights", "flags", "gib", "expected"),
    [
        (TINY, PLAIN, 2, FP32),
        (TINY, PLAIN | {"avx512_bf16"}, 2, BF16),
        (TINY, PLAIN | {"amx_bf16"}, 2, BF16),
        (TWO_B, PLAIN, 16, FP32),
        (TWO_B, PLAIN, None, FP32),
        (TWO_B, PLAIN, 8, LoadPlan(Precision.BF16, slow=True)),
        (TWO_B, PLAIN | {"avx512_bf16"}, 64, BF16),
    ],
    ids=[
        "tiny",
        "tiny with AVX-512 BF16",
        "tiny with AMX",
        "2B in much memory",
        "2B in unknown memory",
        "2B in 8 GiB",
        "2B with AVX-512 BF16",
    ],
)
def test_the_cpu_takes_the_faster_precision_that_fits(
    weights: Weights, flags: frozenset[str], gib: int | None, expected: LoadPlan
) -> None:
    available = None if gib is None else gib * GIB
    plan = plan_for_cpu("a-model", weights, flags=flags, available_bytes=available)
    assert plan == expected
    assert plan.device == "cpu"


@pytest.mark.parametrize(
    ("flags", "needed"), [(PLAIN, "5.0 GiB"), (PLAIN | {"amx_bf16"}, "5.0 GiB")]
)
def test_weights_beyond_the_memory_are_rejected(flags: frozenset[str], needed: str) -> None:
    with pytest.raises(ModelLoadError) as refusal:
        plan_for_cpu("the-2b", TWO_B, flags=flags, available_bytes=4 * GIB)
    line = str(refusal.value)
    assert line.startswith(f"the-2b needs {needed} and only 4.0 GiB of memory are free.")
    assert "QWEN_MODEL=bundled" in line
    assert "\n" not in line


def gpu(gib: float, *, bf16: bool = True) -> Gpu:
    return Gpu(int(gib * GIB), bf16)


@pytest.mark.parametrize(
    ("weights", "gpus", "expected"),
    [
        (TWO_B, [gpu(24)], LoadPlan(Precision.BF16, gpu=0)),
        (TWO_B, [gpu(24, bf16=False)], LoadPlan(Precision.FP32, gpu=0)),
        (TWO_B, [gpu(2), gpu(24)], LoadPlan(Precision.BF16, gpu=1)),
        (TWO_B, [gpu(24), gpu(24, bf16=False)], LoadPlan(Precision.FP32, gpu=0)),
        (
            SEVENTY_TWO_B,
            [gpu(0.5), gpu(80), gpu(80), gpu(80)],
            LoadPlan(Precision.BF16, gpu_budgets={1: 79 * GIB, 2: 79 * GIB, 3: 79 * GIB}),
        ),
    ],
    ids=["one", "an old one", "the emptier of two", "an old and a new one", "spread over three"],
)
def test_gpus_take_what_fits(weights: Weights, gpus: list[Gpu], expected: LoadPlan) -> None:
    plan = plan_for_gpus("a-model", weights, gpus)
    assert plan == expected
    assert plan.device == "cuda"


@pytest.mark.parametrize("gpus", [[gpu(4)], [gpu(0.2)], [gpu(2), gpu(2)]], ids=["4", "0.2", "2+2"])
def test_weights_beyond_all_gpus_are_rejected(gpus: list[Gpu]) -> None:
    with pytest.raises(ModelLoadError, match=r"of GPU memory are free\. .*USE_GPU=false"):
        plan_for_gpus("the-2b", TWO_B, gpus)


def test_float16_is_no_choice() -> None:
    assert {precision.value for precision in Precision} == {"bfloat16", "float32"}
    assert [precision.bytes_per_parameter for precision in Precision] == [2, 4]
