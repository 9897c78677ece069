from __future__ import annotations

import platform
from copy import deepcopy

import pytest
import torch
from torch import nn

from qwen_captcha.backends.hardware import cpu_flags
from qwen_captcha.backends.qwen2vl.pytorch import layers as layers_module
from qwen_captcha.backends.qwen2vl.pytorch.layers import FusedLinear
from qwen_captcha.backends.qwen2vl.pytorch.placement import FAST_BF16_FLAGS

pytestmark = pytest.mark.live

WIDTHS = {"one": [8], "several": [8, 4, 4]}


def layers(widths: list[int], *, bias: bool) -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(6, width, bias=bias) for width in widths]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
def test_results_are_those_of_the_layers_side_by_side(widths: list[int], bias: bool) -> None:
    separate = layers(widths, bias=bias)
    states = torch.randn(2, 3, 6)
    with torch.inference_mode():
        expected = torch.cat([layer(states) for layer in deepcopy(separate)], dim=-1)
        torch.testing.assert_close(FusedLinear(*separate)(states), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3,), (2, 5)], ids=str)
def test_packing_a_small_matrix_changes_no_result(
    dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 80).to(dtype)
    states = torch.randn(*shape, 48).to(dtype)
    packed = FusedLinear(layer)
    monkeypatch.setattr(layers_module, "MAX_PACKED_PARAMETERS", layer.weight.numel() - 1)
    plain = FusedLinear(layer)
    assert plain._packed is None
    # oneDNN has no bf16 for a processor with AVX2 alone.
    packs = dtype is torch.float32 or not FAST_BF16_FLAGS.isdisjoint(cpu_flags())
    if platform.machine() in ("x86_64", "AMD64") and packs:
        assert packed._packed is not None
    with torch.inference_mode():
        torch.testing.assert_close(packed(states), plain(states))


def test_a_torch_that_cannot_pack_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_module.mkldnn, "is_available", lambda: False)
    [layer] = layers([8], bias=True)
    assert FusedLinear(layer)._packed is None
    monkeypatch.undo()

    def refuse(weight: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel")

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refuse)
    states = torch.randn(2, 6)
    torch.testing.assert_close(FusedLinear(layer)(states), layer(states))


def test_layers_work_after_their_weights_are_fused() -> None:
    separate = layers([8, 4, 4], bias=True)
    expected = deepcopy(separate)
    FusedLinear(*separate)
    storages = {layer.weight.untyped_storage().data_ptr() for layer in separate}
    assert len(storages) == 1
    states = torch.randn(2, 6)
    for layer, copy in zip(separate, expected, strict=True):
        torch.testing.assert_close(layer(states), copy(states))


def test_a_layer_that_is_not_linear_is_called_unchanged() -> None:
    class Doubling(nn.Linear):
        """Stands for a layer of a quantised checkpoint, whose weight is no matrix of numbers."""

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) * 2

    odd = Doubling(6, 4)
    [plain] = layers([8], bias=True)
    states = torch.randn(2, 6)
    expected = torch.cat([plain(states), odd(states)], dim=-1)
    torch.testing.assert_close(FusedLinear(plain, odd)(states), expected)
