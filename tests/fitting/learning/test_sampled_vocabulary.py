import pytest
import torch
from torch.nn import functional

from qwen_captcha.fitting.learning.sampled_vocabulary import (
    FREQUENT,
    IGNORED,
    SAMPLED,
    SampledVocabulary,
)

pytestmark = pytest.mark.live

SIZE, WIDTH = 900, 16


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.tensor([[3, 130, 2], [899, 2, IGNORED]])


def test_a_sample_has_each_token_once_and_all_targets(targets: torch.Tensor) -> None:
    torch.manual_seed(0)
    vocabulary = SampledVocabulary.sample(targets, SIZE)
    ids = vocabulary.ids.tolist()
    assert len(ids) == len(set(ids)) == FREQUENT + 2 + SAMPLED
    assert {*range(FREQUENT), 130, 899} < set(ids)
    assert [ids[vocabulary.positions[one]] for one in ids] == ids
    assert (vocabulary.positions == IGNORED).sum() == SIZE - len(ids)


def test_the_loss_of_a_sample_estimates_the_whole_vocabulary(targets: torch.Tensor) -> None:
    """The normaliser's expectation is that of all tokens, and so is the loss, nearly."""
    torch.manual_seed(0)
    states, embedding = torch.randn(2, 3, WIDTH), 0.3 * torch.randn(SIZE, WIDTH)
    whole = SampledVocabulary.whole(SIZE, states.device)
    logits = whole.logits(states, embedding)
    expected = functional.cross_entropy(
        functional.linear(states, embedding).flatten(0, 1), targets.flatten(), ignore_index=IGNORED
    )
    losses = whole.losses(logits, targets)
    assert losses[1, 2] == 0
    assert losses.sum() / 5 == pytest.approx(float(expected), rel=1e-5)
    samples = [SampledVocabulary.sample(targets, SIZE) for _ in range(300)]
    normalisers = torch.stack(
        [sample.logits(states, embedding).exp().sum(-1) for sample in samples]
    ).mean(0)
    torch.testing.assert_close(normalisers, logits.exp().sum(-1), rtol=0.02, atol=0)
    sampled = [float(one.losses(one.logits(states, embedding), targets).sum()) for one in samples]
    assert sum(sampled) / 300 == pytest.approx(float(losses.sum()), rel=0.01)


def test_a_vocabulary_of_frequent_tokens_alone_is_whole(targets: torch.Tensor) -> None:
    vocabulary = SampledVocabulary.sample(targets.clamp_max(FREQUENT - 1), FREQUENT)
    assert vocabulary.ids.tolist() == list(range(FREQUENT))
    assert not vocabulary.offsets.any()
