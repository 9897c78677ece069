"""Muon: against PyTorch's own, and what orthogonalising does to singular values."""

import pytest
import torch
from torch import nn

from qwen_captcha.fitting.learning.optimizers import Muon, orthogonalise

pytestmark = pytest.mark.live


@pytest.mark.parametrize("shape", [(3, 24, 8), (2, 8, 24), (1, 16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    turned = orthogonalise(matrices)
    values = torch.linalg.svdvals(turned)
    assert turned.shape == matrices.shape
    assert values.min() > 0.6
    assert values.max() < 1.25
    alone = torch.cat([orthogonalise(matrix[None]) for matrix in matrices])
    torch.testing.assert_close(turned, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_are_those_of_the_library_to_bf16_precision(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(2)
    shapes = [(12, 6), (6, 12), (12, 6)]
    starts = [torch.randn(shape, generator=random) for shape in shapes]
    ours = [nn.Parameter(start.clone()) for start in starts]
    theirs = [nn.Parameter(start.clone()) for start in starts]
    muon = Muon(ours, dtype)
    muon.param_groups[0]["lr"] = 0.02
    library = torch.optim.Muon(
        theirs, lr=0.02, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(3):
        for own, other in zip(ours[:2], theirs[:2], strict=True):  # the third has no gradient
            own.grad = torch.randn(own.shape, generator=random)
            other.grad = own.grad.clone()
        muon.step()
        library.step()
    for own, other, start in zip(ours, theirs, starts, strict=True):
        moved = (own - start).norm()
        assert (own - other).norm() <= 0.03 * moved
    assert ours[0].ne(starts[0]).any()
    assert ours[2].equal(starts[2])


def test_a_run_saved_with_the_library_resumes() -> None:
    parameter = nn.Parameter(torch.ones(4, 2))
    library = torch.optim.Muon([parameter], lr=0.01)
    parameter.grad = torch.ones(4, 2)
    library.step()
    muon = Muon([parameter], torch.float32)
    muon.load_state_dict(library.state_dict())
    torch.testing.assert_close(muon.state[parameter]["momentum_buffer"], 0.05 * torch.ones(4, 2))
    with pytest.raises(ValueError, match="closure"):
        muon.step(lambda: 0.0)
