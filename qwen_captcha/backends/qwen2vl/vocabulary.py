"""The spelling of each token of a tokenizer, and masks for a charset.

The vocabulary may consist of single characters or of byte-level tokens, which hold several
characters or a part of one. Tokens that differ only in letter case are grouped. An output that
follows the masks spells only characters of the charset, and it can always continue until the last
character is whole.

Dims: B rows, V tokens that the model can choose, which may be more than the tokenizer has.
"""

from __future__ import annotations

import codecs
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel

from qwen_captcha.backends.qwen2vl.arrays import Bools, Floats, Ints
from qwen_captcha.recognition.charsets import Charset
from qwen_captcha.recognition.reading import TokenLogprob

# Charsets whose masks are cached; a mask takes one byte per token.
CACHED_CHARSETS = 64
# The draft for unknown tokens; an answer can continue after it.
DRAFT_TEXT = "a"
# Tokens that end an answer of any Qwen2-VL, also where a configuration names only one of them.
END_TOKENS = ("<|im_end|>", "<|endoftext|>")
# First code point that UTF-8 encodes in 2, 3 and 4 bytes.
_FIRST_CODE_POINTS = {2: 0x80, 3: 0x800, 4: 0x10000}


class Vocabulary:
    """The tokens of one model.

    Args:
        tokenizer: The tokenizer of the model.
        size: V.
        end_ids: The tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, end_ids: frozenset[int]) -> None:
        self.end_ids = end_ids
        # None for tokens that are no text.
        self.spellings = _spellings(tokenizer, size)
        # Characters that begin in each token, (V,).
        self.characters = np.array([count_characters(s or b"") for s in self.spellings])
        by_spelling = {text: token for token, text in enumerate(self.spellings) if text}
        # Each token's twin with all letters in the other case, itself where there is none; (V,).
        self._twins = np.array(
            [by_spelling.get((s or b"").swapcase(), i) for i, s in enumerate(self.spellings)]
        )
        self.draft_token = by_spelling.get(DRAFT_TEXT.encode(), 0)
        self._cases = _CaseClasses(self.spellings)
        self._whole = _WholeTokens(self.spellings)
        self.rules = lru_cache(maxsize=CACHED_CHARSETS)(self._make_rules)

    def other_case(self, log_probabilities: Floats, chosen: Ints) -> Floats:
        """Return the log-probability of chosen tokens in the other case of their letters.

        Args:
            log_probabilities: (..., V).
            chosen: (..., k).

        Returns:
            (..., k), -inf where a token has no other case.
        """
        twins = self._twins[chosen]
        known = np.take_along_axis(log_probabilities, twins, axis=-1)
        return np.where(twins == chosen, np.float32(-math.inf), known)

    def merge_cases(self, log_probabilities: Floats) -> Floats:
        """Return log-probabilities (B, V) in which tokens that differ in case are merged.

        One of the tokens, their key, has the sum of the probabilities; the others have -inf.
        """
        return self._cases.merge(log_probabilities)

    def spell_case(self, log_probabilities: Floats, keys: Ints) -> Ints:
        """Return for keys (B, k) of `merge_cases` the most probable of the merged tokens, (B, k).

        Args:
            log_probabilities: (B, V), before the merge.
            keys: The keys.
        """
        return self._cases.most_probable(log_probabilities, keys)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of tokens, without the special ones.

        Bytes that are no character are replaced, as the tokenizer does.
        """
        return b"".join(self.spellings[token] or b"" for token in token_ids).decode(
            errors="replace"
        )

    def read_tokens(self, token_ids: Sequence[int], scores: Sequence[float]) -> list[TokenLogprob]:
        """Return tokens with their text; tokens that spell one character together are joined.

        If there is one score more than tokens, it is that of the end token. Bytes that are no
        character are replaced, as the tokenizer does.
        """
        read: list[TokenLogprob] = []
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text, text_score = "", 0.0
        for token, score in zip(token_ids, scores, strict=False):
            text += decoder.decode(self.spellings[token] or b"")
            text_score += score
            if not decoder.getstate()[0]:
                read.append(TokenLogprob(text, text_score))
                text, text_score = "", 0.0
        if len(scores) > len(token_ids):
            read.append(TokenLogprob("", text_score + scores[-1]))
        return read

    def _make_rules(self, charset: Charset) -> CharsetRules:
        return CharsetRules(charset, self._whole.inside(charset), self._whole.others)


class CharsetRules:
    """The tokens that keep an answer inside a charset; made by `Vocabulary.rules`.

    Args:
        charset: The allowed characters.
        inside: (V,) bool, the tokens of whole characters that are all allowed.
        others: The tokens with a part of a character, and their bytes.
    """

    def __init__(
        self,
        charset: Charset,
        inside: Bools,
        others: Sequence[tuple[int, bytes]],
    ) -> None:
        self._charset = charset
        self._inside = inside
        self._others = others
        self._masks: dict[bytes, Bools] = {}

    def allowed(self, pending: bytes) -> Bools:
        """Return (V,) bool, the tokens that may follow the first bytes of a character, or none."""
        if pending not in self._masks:
            # After the first bytes of a character, only its further bytes can follow.
            mask = np.zeros_like(self._inside) if pending else self._inside.copy()
            for token, spelling in self._others:
                mask[token] = self.rest(pending + spelling) is not None
            self._masks[pending] = mask
        return self._masks[pending]

    def rest(self, data: bytes) -> bytes | None:
        """Return the incomplete character at the end of bytes, None if they are not allowed."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            text = decoder.decode(data)
        except UnicodeDecodeError:
            return None
        rest = decoder.getstate()[0]
        allowed = all(character in self._charset for character in text)
        return rest if allowed and (not rest or self._can_complete(rest)) else None

    def _can_complete(self, rest: bytes) -> bool:
        """Return whether a character of the charset begins with these bytes."""
        length = 2 if rest[0] < 0xE0 else 3 if rest[0] < 0xF0 else 4
        value = rest[0] & (0x7F >> length)
        for byte in rest[1:]:
            value = value << 6 | byte & 0x3F
        missing_bits = 6 * (length - len(rest))
        first = value << missing_bits
        last = first + (1 << missing_bits) - 1
        return self._charset.overlaps(max(first, _FIRST_CODE_POINTS[length]), last)


class _WholeTokens:
    """The tokens of whole characters, arranged so that one operation applies a charset."""

    def __init__(self, spellings: Sequence[bytes | None]) -> None:
        self._size = len(spellings)
        self.others: list[tuple[int, bytes]] = []
        texts: dict[int, str] = {}
        for token, spelling in enumerate(spellings):
            if spelling:
                try:
                    texts[token] = spelling.decode()
                except UnicodeDecodeError:
                    self.others.append((token, spelling))
        self._tokens = np.fromiter(texts, dtype=np.int64)
        lengths = np.fromiter(map(len, texts.values()), dtype=np.int64)
        self._starts = np.cumsum(lengths) - lengths
        self._code_points = np.fromiter(map(ord, "".join(texts.values())), dtype=np.int64)

    def inside(self, charset: Charset) -> Bools:
        """Return (V,) bool, the tokens whose characters are all in a charset."""
        borders = np.array([(first, last + 1) for first, last in charset.ranges]).reshape(-1)
        # A code point is inside a run if an odd number of borders precedes it.
        within = np.searchsorted(borders, self._code_points, side="right") % 2 == 1
        mask = np.zeros(self._size, dtype=np.bool_)
        if self._tokens.size:
            mask[self._tokens] = np.logical_and.reduceat(within, self._starts)
        return mask


class _CaseClasses:
    """Classes of tokens that differ only in the case of their ASCII letters.

    Dims: K classes of several tokens, M tokens of the largest one.
    """

    def __init__(self, spellings: Sequence[bytes | None]) -> None:
        by_letters: dict[bytes, list[int]] = defaultdict(list)
        for token, spelling in enumerate(spellings):
            if spelling:
                by_letters[spelling.lower()].append(token)
        classes = [tokens for tokens in by_letters.values() if len(tokens) > 1]
        size = max(map(len, classes), default=1)
        # The tokens of each class, padded with its first token; (K, M).
        self._tokens = np.array(
            [tokens + tokens[:1] * (size - len(tokens)) for tokens in classes], dtype=np.int64
        ).reshape(-1, size)
        counts = np.array(list(map(len, classes)), dtype=np.int64)
        self._padding = np.arange(size) >= counts[:, None]  # (K, M)
        # The class of each token, -1 for a token without one; (V,).
        self._class_of = np.full(len(spellings), -1)
        self._class_of[self._tokens] = np.arange(len(classes))[:, None]

    def merge(self, log_probabilities: Floats) -> Floats:
        """Return log-probabilities (B, V) in which the first token of a class has its sum."""
        known = log_probabilities[:, self._tokens]  # (B, K, M)
        known[:, self._padding] = -math.inf
        merged = log_probabilities.copy()
        merged[:, self._tokens] = -math.inf
        merged[:, self._tokens[:, 0]] = log_sum(known)
        return merged

    def most_probable(self, log_probabilities: Floats, keys: Ints) -> Ints:
        """Return for the first tokens (B, k) of classes the most probable ones, (B, k)."""
        tokens = np.repeat(keys[..., None], self._tokens.shape[1], axis=-1)  # (B, k, M)
        several = self._class_of[keys] >= 0  # (B, k)
        tokens[several] = self._tokens[self._class_of[keys[several]]]
        rows = np.arange(len(keys))[:, None, None]
        best = log_probabilities[rows, tokens].argmax(axis=-1)  # (B, k)
        return np.take_along_axis(tokens, best[..., None], axis=-1)[..., 0]


def log_sum(log_probabilities: Floats) -> Floats:
    """Return the log of the sum of probabilities (..., V) along the last dim, (...)."""
    best = log_probabilities.max(axis=-1, keepdims=True)
    # If all are -inf, so is their sum.
    shift = np.where(np.isfinite(best), best, np.float32(0))
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(log_probabilities - shift).sum(axis=-1))
    return np.asarray(total + shift[..., 0], dtype=np.float32)


def named_end_ids(tokenizer: Tokenizer, *named: int | Sequence[int] | None) -> frozenset[int]:
    """Return every token that ends an answer.

    Args:
        tokenizer: The tokenizer of the model.
        named: The tokens in each configuration: one, several or none.
    """
    ids = {token for text in END_TOKENS if (token := tokenizer.token_to_id(text)) is not None}
    for value in named:
        ids.update([value] if isinstance(value, int) else value or [])
    return frozenset(ids)


def _spellings(tokenizer: Tokenizer, size: int) -> list[bytes | None]:
    """Return the bytes of each token, None where it is special or the tokenizer lacks it."""
    byte_level = isinstance(tokenizer.decoder, ByteLevel)
    no_text = tokenizer.get_added_tokens_decoder()
    spellings: list[bytes | None] = [None] * size
    for text, token in tokenizer.get_vocab().items():
        if token not in no_text and token < size:
            spellings[token] = _bytes_of(text) if byte_level else text.encode()
    return spellings


def _bytes_of(text: str) -> bytes:
    """Return the bytes of a token of a byte-level vocabulary."""
    return bytes(_BYTES[character] for character in text)


def _byte_characters() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary represents.

    Source: `bytes_to_unicode` of GPT-2. Visible characters of Latin-1 represent their own byte;
    characters from U+0100 on represent the other bytes, in order.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in visible]
    return {
        **{chr(byte): byte for byte in visible},
        **{chr(0x100 + index): byte for index, byte in enumerate(others)},
    }


_BYTES = _byte_characters()


def count_characters(spelling: bytes) -> int:
    """Return the number of characters that begin in some bytes of UTF-8."""
    # Bytes 0x80 to 0xBF continue a character.
    return sum(byte & 0xC0 != 0x80 for byte in spelling)
