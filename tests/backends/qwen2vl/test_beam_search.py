"""The search compared with enumerating every allowed reading, and alone with among neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from qwen_captcha.backends.qwen2vl.beam_search import search
from qwen_captcha.backends.qwen2vl.greedy import Decoded
from qwen_captcha.backends.qwen2vl.language_model import NonFiniteLogitsError, Prompts
from qwen_captcha.backends.qwen2vl.preprocessing import Preprocessor
from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchCache, PyTorchModel
from qwen_captcha.backends.qwen2vl.pytorch.processor import processor_config
from qwen_captcha.backends.qwen2vl.search_plan import SearchPlan
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary
from qwen_captcha.recognition.charsets import DIGITS, Charset
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import (
    END_IDS,
    IDS,
    Shape,
    noise_images,
    small_model,
    small_processor,
)

pytestmark = pytest.mark.live

MODEL = small_model(Shape())
PROCESSOR = small_processor()
STEPS = 8
# Of different lengths in tokens, so that prompts are padded.
SIZES = [(160, 60), (60, 160), (100, 30), (3, 3), (300, 100), (64, 64)]
THREE = Charset.of("xyz")


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(PROCESSOR.tokenizer.backend_tokenizer, len(IDS), frozenset(END_IDS))


def prompts(sizes: Sequence[tuple[int, int]]) -> Prompts[PyTorchCache]:
    """Read noise images of some sizes."""
    images = dict(zip(SIZES, noise_images(SIZES), strict=True))
    batch = Preprocessor(processor_config(PROCESSOR)).prepare(
        [GenerationRequest(images[size], "what is it?", STEPS) for size in sizes]
    )
    drafted = np.full((len(sizes), 2), IDS["x"])
    return Prompts.read(PyTorchModel(MODEL), batch, drafted, STEPS)


def log_probability(read: Prompts[PyTorchCache], text: str) -> float:
    """Return that of a text and the most probable end, one forced token after another."""
    cache, behind = read.cache, read.log_probabilities
    total = 0.0
    for place, character in enumerate(text):
        total += behind[0, 0, IDS[character]].item()
        token = np.array([[IDS[character]]])
        cache, behind = read.model.extend(cache, token, place, np.array([0]))
    return total + behind[0, 0, list(END_IDS)].max().item()


def text_of(decoded: Decoded) -> str:
    return str(PROCESSOR.tokenizer.decode(decoded.token_ids))


def test_the_readings_found_are_the_best_of_all_that_are_allowed(vocabulary: Vocabulary) -> None:
    read = prompts(SIZES[:1])
    texts = ["".join(letters) for n in (1, 2) for letters in product("xyz", repeat=n)]
    expected = sorted(((log_probability(read, text), text) for text in texts), reverse=True)
    least = expected[0][0] + math.log(1e-4)
    plan = SearchPlan(0, STEPS, 9, 5, THREE, min_length=1, max_length=2)
    [found] = search(read, vocabulary, [plan])
    assert len(found) >= 3
    assert all(decoded.complete for decoded in found)
    assert [text_of(decoded) for decoded in found] == [
        text for probability, text in expected[:5] if probability > least
    ]
    for decoded, (probability, _) in zip(found, expected, strict=False):
        assert decoded.log_probability == pytest.approx(probability, abs=1e-4)


def test_scores_are_shares_of_what_is_allowed(vocabulary: Vocabulary) -> None:
    read = prompts(SIZES[:1])
    plan = SearchPlan(0, STEPS, 9, 9, THREE, min_length=1, max_length=1)
    [found] = search(read, vocabulary, [plan])
    # One character of three, then an end that is certain because nothing else is allowed.
    assert sum(math.exp(decoded.scores[0]) for decoded in found) == pytest.approx(1, abs=1e-3)
    assert all(decoded.scores[1] == pytest.approx(0, abs=1e-5) for decoded in found)


def test_scores_count_either_case_of_a_letter(
    vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins = vocabulary._twins.copy()  # the small vocabulary has no capitals: say that y is one
    twins[[IDS["x"], IDS["y"]]] = [IDS["y"], IDS["x"]]
    monkeypatch.setattr(vocabulary, "_twins", twins)
    plan = SearchPlan(0, STEPS, 9, 9, THREE, min_length=1, max_length=1)
    [found] = search(prompts(SIZES[:1]), vocabulary, [plan])
    share = {text_of(decoded): math.exp(decoded.scores[0]) for decoded in found}
    assert share["x"] == pytest.approx(share["y"])
    assert share["x"] + share["z"] == pytest.approx(1, abs=1e-3)


PLANS = {
    "digits": SearchPlan(0, STEPS, 4, 1, DIGITS, min_length=1),
    "three letters, exactly four": SearchPlan(0, STEPS, 4, 2, THREE, 4, 4),
    "two to three of anything": SearchPlan(0, STEPS, 6, 6, min_length=2, max_length=3),
    "free": SearchPlan(0, STEPS, 4, 4),
    "either case": SearchPlan(0, STEPS, 4, 2, merge_cases=True),
    "narrow": SearchPlan(0, STEPS, 1, 1, DIGITS | THREE, min_length=3),
}


def moved(plan: SearchPlan, row: int) -> SearchPlan:
    limits = (plan.min_length, plan.max_length, plan.merge_cases)
    return SearchPlan(row, plan.max_new_tokens, plan.width, plan.wanted, plan.charset, *limits)


def test_a_batched_search_equals_a_single_one(vocabulary: Vocabulary) -> None:
    plans = [moved(plan, row) for row, plan in enumerate(PLANS.values())]
    together = search(prompts(SIZES), vocabulary, plans)
    for size, plan, found in zip(SIZES, plans, together, strict=True):
        [alone] = search(prompts([size]), vocabulary, [moved(plan, 0)])
        assert [decoded.token_ids for decoded in found] == [d.token_ids for d in alone]
        for one, other in zip(found, alone, strict=True):
            assert one.log_probability == pytest.approx(other.log_probability, abs=1e-4)
            assert one.scores == pytest.approx(other.scores, abs=1e-4)
            assert one.complete == other.complete


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_every_reading_is_inside_its_charset_and_length(
    vocabulary: Vocabulary, plan: SearchPlan
) -> None:
    read = prompts(SIZES)
    for found in search(read, vocabulary, [moved(plan, row) for row in range(len(SIZES))]):
        assert 1 <= len(found) <= plan.wanted
        probabilities = [decoded.log_probability for decoded in found]
        assert probabilities == sorted(probabilities, reverse=True)
        for decoded in found:
            text = text_of(decoded)
            assert all(character in plan.charset for character in text)
            if decoded.complete:
                assert plan.min_length <= len(text) <= (plan.max_length or STEPS)
            else:
                assert (len(found), len(decoded.token_ids)) == (1, STEPS)


def test_a_search_without_allowed_texts_is_empty(vocabulary: Vocabulary) -> None:
    chinese = Charset.of("天")
    assert search(prompts(SIZES[:1]), vocabulary, [SearchPlan(0, STEPS, 4, 1, chinese, 1)]) == [[]]


def test_logits_that_are_not_finite_are_an_error(vocabulary: Vocabulary) -> None:
    read = prompts(SIZES[:1])
    read.log_probabilities[0, 0, IDS["x"]] = float("nan")
    with pytest.raises(NonFiniteLogitsError):
        search(read, vocabulary, [PLANS["digits"]])
