import random

import pytest

from training.build import SPECIAL_TOKENS, build_tokenizer
from training.rendering import texts
from training.rendering.alphabet import (
    ALPHABET,
    HANZI_LEVEL_1,
    HANZI_LEVEL_2,
)
from training.rendering.texts import (
    KINDS,
    sample_length,
    sample_text,
)

pytestmark = pytest.mark.live


def test_gb2312_is_complete() -> None:
    assert (len(HANZI_LEVEL_1), len(HANZI_LEVEL_2)) == (3755, 3008)


def test_alphabet_has_no_duplicates() -> None:
    assert len(set(ALPHABET)) == len(ALPHABET)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_in_the_alphabet_and_reproducible(kind: str) -> None:
    labels = [sample_text(random.Random(seed), kind, longest=8) for seed in range(300)]
    assert set("".join(labels)) <= set(ALPHABET)
    assert labels == [sample_text(random.Random(seed), kind, longest=8) for seed in range(300)]
    assert len(set(labels)) > 50


@pytest.mark.parametrize("longest", [1, 2, 4, 10])
def test_code_lengths_reach_but_do_not_pass_the_longest(longest: int) -> None:
    rng = random.Random(0)
    lengths = {sample_length(rng, longest) for _ in range(2000)}
    assert max(lengths) == longest
    assert min(lengths) >= 1


@pytest.mark.parametrize("kind", ["digits", "latin"])
def test_some_codes_have_few_different_characters(kind: str) -> None:
    rng = random.Random(0)
    long = [text for text in (sample_text(rng, kind, 16) for _ in range(2000)) if len(text) > 8]
    few = sum(len(set(text)) <= 3 for text in long) / len(long)
    assert 0.1 < few < 0.2


def test_words_of_the_list_are_glued_from_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_dictionary", lambda: ("orange", "keyboard"))
    rng = random.Random(0)
    words = {texts._word(rng, 16).lower() for _ in range(400)}
    assert {"orange", "keyboard", "oraoard", "keybnge"} <= words
    assert max(len(word) for word in {texts._word(rng, 5) for _ in range(400)}) == 5


@pytest.mark.parametrize("text", ["a3B9", "三加五等于？", "12×3=?", "i l1I", "~!\"'"])
def test_tokenizer_is_one_token_a_character_and_reversible(text: str) -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert min(ids) >= len(SPECIAL_TOKENS)
