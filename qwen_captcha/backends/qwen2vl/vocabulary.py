"""What the tokens of a tokenizer spell, and which of them an answer may go on with.

Responsible for: the bytes of every token, tokens that are one but for the case of their letters,
masks for a charset. Covers vocabularies of single characters and byte-level ones, whose tokens hold
several characters or a part of one. Invariant: whatever follows the masks spells characters of the
charset alone, and it can always be gone on with until the last character is whole.

Dims: B rows, V tokens that the model can choose, which may be more than the tokenizer has.
"""

from __future__ import annotations

import codecs
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from qwen_captcha.recognition.charsets import Charset
from qwen_captcha.recognition.reading import TokenLogprob

# Charsets whose masks are kept; a mask takes a byte a token.
KEPT_CHARSETS = 64
# What a token to come is drafted to be while nothing is known: answers go on after it.
DRAFT_TEXT = "a"
# Of a sequence of 2, 3 and 4 bytes in UTF-8.
_FIRST_CODE_POINTS = {2: 0x80, 3: 0x800, 4: 0x10000}


class Vocabulary:
    """The tokens of one model.

    Args:
        tokenizer: Spells them.
        size: V.
        end_ids: Each of these tokens ends an answer.
        device: Where masks and tables are used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        size: int,
        end_ids: frozenset[int],
        device: torch.device,
    ) -> None:
        self.end_ids = end_ids
        # None for tokens that are no text.
        self.spellings = _spellings(tokenizer, size)
        self.device = device
        # Characters that begin in each token, (V,).
        self.characters = torch.tensor(
            [count_characters(spelling or b"") for spelling in self.spellings], device=device
        )
        by_spelling = {text: token for token, text in enumerate(self.spellings) if text}
        # Each token's twin with all letters in the other case, itself where there is none; (V,).
        self._twins = torch.tensor(
            [by_spelling.get((s or b"").swapcase(), i) for i, s in enumerate(self.spellings)],
            device=device,
        )
        self.draft_token = by_spelling.get(DRAFT_TEXT.encode(), 0)
        keys, variants = _case_tables(self.spellings)
        self._case_keys, self._case_variants = keys.to(device), variants.to(device)
        self._whole = _WholeTokens(self.spellings)
        self.rules = lru_cache(maxsize=KEPT_CHARSETS)(self._make_rules)

    def other_case(self, log_probabilities: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return the log-probability of chosen tokens in the other case of their letters.

        Args:
            log_probabilities: (..., V).
            chosen: (...).

        Returns:
            (...), -inf where a token has no other case.
        """
        chosen = chosen.unsqueeze(-1)  # (..., 1)
        twins = self._twins.to(chosen.device)[chosen]
        known = log_probabilities.gather(-1, twins)
        return known.masked_fill_(twins == chosen, -math.inf).squeeze(-1)

    def merge_cases(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities (B, V) with those of tokens that differ in case added up.

        One of the tokens, their key, has the sum; the others are impossible.
        """
        keys = self._case_keys.to(log_probabilities.device)
        merged = torch.zeros_like(log_probabilities)
        return merged.index_add_(1, keys, log_probabilities.exp()).log()

    def spell_case(self, log_probabilities: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Return for tokens (B, k) of `merge_cases` the most probable of those added up, (B, k).

        Args:
            log_probabilities: (B, V), as they were before.
            keys: The tokens.
        """
        variants = self._case_variants.to(keys.device)[keys]  # (B, k, M)
        known = log_probabilities.gather(1, variants.flatten(1)).view(variants.shape)
        return variants.gather(2, known.argmax(dim=2, keepdim=True)).squeeze(2)

    def read_tokens(self, token_ids: Sequence[int], scores: Sequence[float]) -> list[TokenLogprob]:
        """Return what tokens spell, whole characters each; a further score is the end token's.

        Bytes that are no character are replaced, as the tokenizer does.
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
        return CharsetRules(self, charset, self._whole.inside(charset), self._whole.others)


class CharsetRules:
    """Which tokens keep an answer inside a charset; made by `Vocabulary.rules`.

    Args:
        vocabulary: The tokens.
        charset: The allowed characters.
        inside: (V,) bool, the tokens of whole characters that are all allowed.
        others: The tokens that hold a part of a character.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        charset: Charset,
        inside: torch.Tensor,
        others: Sequence[tuple[int, bytes]],
    ) -> None:
        self._vocabulary = vocabulary
        self._charset = charset
        self._inside = inside
        self._others = others
        self._masks: dict[bytes, torch.Tensor] = {}

    def allowed(self, pending: bytes) -> torch.Tensor:
        """Return (V,) bool, the tokens that may follow the first bytes of a character, or none."""
        if pending not in self._masks:
            # Only bytes that go on with a character can follow its first ones.
            mask = torch.zeros_like(self._inside) if pending else self._inside.clone()
            for token, spelling in self._others:
                mask[token] = self.rest(pending + spelling) is not None
            self._masks[pending] = mask.to(self._vocabulary.device)
        return self._masks[pending]

    def rest(self, data: bytes) -> bytes | None:
        """Return the first bytes of a character at the end of some text, None if not allowed."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            text = decoder.decode(data)
        except UnicodeDecodeError:
            return None
        rest = decoder.getstate()[0]
        allowed = all(character in self._charset for character in text)
        return rest if allowed and (not rest or self._can_complete(rest)) else None

    def _can_complete(self, rest: bytes) -> bool:
        """Tell whether a character of the charset begins with these bytes."""
        length = 2 if rest[0] < 0xE0 else 3 if rest[0] < 0xF0 else 4
        value = rest[0] & (0x7F >> length)
        for byte in rest[1:]:
            value = value << 6 | byte & 0x3F
        missing_bits = 6 * (length - len(rest))
        first = value << missing_bits
        last = first + (1 << missing_bits) - 1
        return self._charset.overlaps(max(first, _FIRST_CODE_POINTS[length]), last)


class _WholeTokens:
    """The tokens that spell whole characters, laid out so that a charset is one operation."""

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

    def inside(self, charset: Charset) -> torch.Tensor:
        """Return (V,) bool, the tokens of which every character is in a charset."""
        borders = np.array([(first, last + 1) for first, last in charset.ranges]).reshape(-1)
        # Behind an odd number of borders a code point is inside a run.
        within = np.searchsorted(borders, self._code_points, side="right") % 2 == 1
        mask = torch.zeros(self._size, dtype=torch.bool)
        if self._tokens.size:
            mask[self._tokens] = torch.from_numpy(np.logical_and.reduceat(within, self._starts))
        return mask


def _spellings(tokenizer: PreTrainedTokenizerFast, size: int) -> list[bytes | None]:
    """Return the bytes of each token, None where it is special or the tokenizer lacks it."""
    characters = {character: byte for byte, character in bytes_to_unicode().items()}
    byte_level = isinstance(tokenizer.backend_tokenizer.decoder, ByteLevel)
    no_text = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    spellings: list[bytes | None] = [None] * size
    for text, token in tokenizer.get_vocab().items():
        if token not in no_text and token < size:
            spelled = bytes(characters[c] for c in text) if byte_level else text.encode()
            spellings[token] = spelled
    return spellings


def count_characters(spelling: bytes) -> int:
    """Return how many characters begin in some bytes of UTF-8."""
    # Bytes 0x80 to 0xBF go on with a character.
    return sum(byte & 0xC0 != 0x80 for byte in spelling)


def _case_tables(spellings: Sequence[bytes | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what belongs together in spite of the case of ASCII letters.

    Returns:
        The first of the tokens that belong together with each token, (V,); and all that belong
        together with each such first one, (V, M), its own number for what is left of M.
    """
    classes: dict[bytes, list[int]] = defaultdict(list)
    for token, spelling in enumerate(spellings):
        if spelling:
            classes[spelling.lower()].append(token)
    most = max(map(len, classes.values()), default=1)
    keys = torch.arange(len(spellings))
    variants = keys.unsqueeze(1).repeat(1, most)
    for tokens in classes.values():
        keys[tokens] = tokens[0]
        variants[tokens[0], : len(tokens)] = torch.tensor(tokens)
    return keys, variants
