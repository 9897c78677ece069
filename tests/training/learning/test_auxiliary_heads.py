import pytest
import torch

from qwen_captcha.fitting.learning.sampled_vocabulary import IGNORED, SampledVocabulary
from training.learning.auxiliary_heads import (
    GlyphHeads,
    box_distances,
    patch_centres,
)

pytestmark = pytest.mark.live


def test_patch_centres_go_cell_by_cell() -> None:
    centres = patch_centres((1, 2), torch.device("cpu"))
    expected = [[x, y] for left in (0, 2) for y in (0.25, 0.75) for x in (left, left + 1)]
    assert centres.tolist() == [[(x + 0.5) / 4, y] for x, y in expected]


@pytest.mark.parametrize(
    ("box", "covered"),
    [
        ([0.25, 0.5, 0.25, 0.5], {0, 1, 2, 3}),
        ([0.75, 0.25, 0.25, 0.25], {4, 5}),
        ([0.125, 0.25, 0.0, 0.0], {0}),
        ([-0.6, 0.5, 0.2, 0.5], set()),
    ],
    ids=["left cell", "upper half of the right cell", "smaller than a patch", "outside"],
)
def test_a_box_covers_the_patches_inside_it(box: list[float], covered: set[int]) -> None:
    distances = box_distances(torch.tensor([[box]]), (1, 2))
    assert distances.shape == (1, 1, 8)
    assert set(torch.nonzero(distances[0, 0] <= 1).flatten().tolist()) == covered


def test_losses_ignore_positions_after_the_end_of_a_label() -> None:
    torch.manual_seed(0)
    heads = GlyphHeads(16)
    patches, embedding = torch.randn(2, 8, 16), torch.randn(140, 16)
    targets = torch.tensor([[3, 130, 2], [5, 2, IGNORED]])
    vocabulary = SampledVocabulary.whole(140, torch.device("cpu"))
    boxes = torch.rand(2, 2, 4)
    boxes[1, 1] = 0
    with torch.no_grad():
        losses = heads(patches, (1, 2), boxes, targets, vocabulary, embedding)
        boxes[1, 1] = 0.5
        again = heads(patches, (1, 2), boxes, targets, vocabulary, embedding)
    assert [float(loss) for loss in losses] == [float(loss) for loss in again]
    assert all(loss.isfinite() and loss > 0 for loss in losses)
