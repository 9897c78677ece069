"""Masks and case tables, over single characters and over the published byte-level vocabulary."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from tokenizers import Tokenizer

from evaluation.published.layout import fast_tokenizer
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary
from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT
from qwen_captcha.recognition.charsets import (
    CHARSET_RANGES,
    CHINESE,
    DIGITS,
    Charset,
)
from qwen_captcha.recognition.reading import TokenLogprob
from tests.support.checkpoints import published_vocabulary

pytestmark = pytest.mark.live

# More tokens than the tokenizer has, as in the published checkpoints.
SIZE = 151936


@pytest.fixture(scope="module")
def published() -> Vocabulary:
    return Vocabulary(fast_tokenizer(published_vocabulary()), SIZE, frozenset({151645}))


@pytest.fixture(scope="module")
def bundled() -> Vocabulary:
    tokenizer = Tokenizer.from_file(str(BUNDLED_CHECKPOINT / "tokenizer.json"))
    return Vocabulary(tokenizer, tokenizer.get_vocab_size(), frozenset({2}))


@pytest.fixture(params=["published", "bundled"])
def vocabulary(request: pytest.FixtureRequest) -> Vocabulary:
    known: Vocabulary = request.getfixturevalue(request.param)
    return known


def allowed_spellings(vocabulary: Vocabulary, charset: Charset, pending: bytes = b"") -> set[bytes]:
    mask = vocabulary.rules(charset).allowed(pending)
    return {vocabulary.spellings[token] or b"" for token in np.flatnonzero(mask)}


def test_digits_are_the_ten_digits_in_either_vocabulary(vocabulary: Vocabulary) -> None:
    assert allowed_spellings(vocabulary, DIGITS) == {str(digit).encode() for digit in range(10)}


def test_tokens_of_several_characters_need_all_of_them(published: Vocabulary) -> None:
    spelled = allowed_spellings(published, CHARSET_RANGES[1])
    assert {b"the", b"tion", b"a"} <= spelled
    assert not {b"The", b" the", b"th3", b"\n"} & spelled
    assert b"The" in allowed_spellings(published, CHARSET_RANGES[3])


@pytest.mark.parametrize("charset", [DIGITS, CHARSET_RANGES[6], CHARSET_RANGES[7], CHINESE])
def test_no_special_token_is_ever_allowed(vocabulary: Vocabulary, charset: Charset) -> None:
    mask = vocabulary.rules(charset).allowed(b"")
    assert all(vocabulary.spellings[token] for token in np.flatnonzero(mask))
    assert vocabulary.spellings[-1] is None or len(vocabulary.spellings) < SIZE
    assert mask.any()


@pytest.mark.parametrize(
    "charset",
    [Charset.of("龥鑫人1"), Charset.of("😀é"), CHARSET_RANGES[7], CHINESE, CHARSET_RANGES[6]],
    ids=["rare and common Chinese", "four bytes and two", "all but alphanumeric", "Chinese", "6"],
)
def test_any_sequence_within_the_masks_is_in_the_charset_and_ends(
    published: Vocabulary, charset: Charset
) -> None:
    rules, rng = published.rules(charset), random.Random(5)
    for _ in range(8):
        data, pending = b"", b""
        # A walk that prefers to stay inside characters, then completes the last one.
        for step in range(12):
            mask = rules.allowed(pending)
            partial = mask & (published.characters == 0)
            tokens = np.flatnonzero(partial if partial.any() else mask)
            token = int(tokens[rng.randrange(len(tokens))])
            data += published.spellings[token] or b""
            rest = rules.rest(pending + (published.spellings[token] or b""))
            assert rest is not None
            pending = rest
            if step > 4 and not pending:
                break
        assert not pending
        assert all(character in charset for character in data.decode())


def test_a_character_of_several_tokens_is_reached_byte_by_byte(published: Vocabulary) -> None:
    charset = Charset.of("龥")
    reached = {b""}
    for _ in range(3):
        reached = {
            pending + spelling
            for pending in reached
            if pending != "龥".encode()
            for spelling in allowed_spellings(published, charset, pending)
        } | (reached & {"龥".encode()})
    assert reached == {"龥".encode()}


def test_letters_have_their_other_case_and_digits_have_none(vocabulary: Vocabulary) -> None:
    ids = {text: token for token, text in enumerate(vocabulary.spellings) if text}
    chosen = np.array([[ids[b"a"]], [ids[b"S"]], [ids[b"7"]]])
    known = np.full((3, len(vocabulary.spellings)), -20.0, np.float32)
    for row, pair in enumerate((b"aA", b"sS", b"77")):
        for letter in {pair[:1], pair[1:]}:
            known[row, ids[letter]] = math.log(0.3)
    expected = [math.log(0.3), math.log(0.3), -math.inf]
    assert vocabulary.other_case(known, chosen)[:, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_merged_cases_add_up_and_are_spelled_as_the_likelier_one(vocabulary: Vocabulary) -> None:
    ids = {text: token for token, text in enumerate(vocabulary.spellings) if text}
    known = np.full((1, len(vocabulary.spellings)), -30.0, np.float32)
    for text, share in {b"b": 0.2, b"B": 0.35, b"8": 0.4}.items():
        known[0, ids[text]] = math.log(share)
    merged = vocabulary.merge_cases(known)
    assert np.exp(merged).sum() == pytest.approx(np.exp(known).sum(), abs=1e-5)
    keys = np.argsort(-merged, axis=1)[:, :2]
    assert np.exp(merged[0, keys[0]]) == pytest.approx([0.55, 0.4], abs=1e-5)
    spelled = vocabulary.spell_case(known, keys)[0]
    assert [vocabulary.spellings[token] for token in spelled] == [b"B", b"8"]


def test_several_letters_merge_in_all_their_spellings(published: Vocabulary) -> None:
    ids = {text: token for token, text in enumerate(published.spellings) if text}
    known = np.full((1, SIZE), -30.0, np.float32)
    for text in (b"the", b"The", b"THE"):
        known[0, ids[text]] = math.log(0.3)
    assert np.exp(published.merge_cases(known).max()) == pytest.approx(0.9, abs=1e-5)


def test_token_probabilities_are_merged_to_characters(published: Vocabulary) -> None:
    tokenizer = fast_tokenizer(published_vocabulary())
    for text in ("a3b9", "the 龥鑫 end", "😀7"):
        tokens = tokenizer.encode(text).ids
        assert published.decode(tokens) == text
        scores = [-float(place) for place in range(len(tokens) + 1)]
        read = published.read_tokens(tokens, scores)
        assert "".join(token.text for token in read) == text
        assert sum(token.log_probability for token in read) == sum(scores)
        assert read[-1] == TokenLogprob("", scores[-1])


def test_an_invalid_byte_does_not_consume_the_next_bytes(
    published: Vocabulary,
) -> None:
    def token_of(spelling: bytes) -> int:
        return published.spellings.index(spelling)

    tokens = [token_of(spelling) for spelling in (b"\xa5", b"a", b"\xe9", b"b")]
    read = published.read_tokens(tokens, [-1.0, -2.0, -3.0, -4.0, -5.0])
    assert [(token.text, token.log_probability) for token in read] == [
        ("\ufffd", -1.0),
        ("a", -2.0),
        ("\ufffdb", -7.0),
        ("", -5.0),
    ]
