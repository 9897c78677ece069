"""Add the characters of the labels that a checkpoint does not know to its vocabulary.

This concerns tokenizers of single characters and their embeddings, which read and score a token. A
vocabulary of bytes spells everything and needs nothing. Existing tokens keep their numbers and
their embeddings.

Dims: V tokens, D width.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence

import torch
from tokenizers import models
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

from qwen_captcha.fitting.errors import FittingError

# How far a new embedding is from the mean of those it starts from, in their standard deviations.
_NOISE = 0.3


def missing_characters(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[str]:
    """Return the characters of some texts that a tokenizer cannot spell, sorted."""
    characters = sorted(set("".join(texts)))
    return [character for character in characters if not _spells(tokenizer, character)]


def _spells(tokenizer: PreTrainedTokenizerFast, character: str) -> bool:
    ids = tokenizer.encode(character, add_special_tokens=False)
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text == character and tokenizer.unk_token_id not in ids


def add_characters(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, characters: Sequence[str]
) -> None:
    """Add characters to a checkpoint's vocabulary, in place.

    An accented letter starts as the letter without its accent, any other character as the mean
    of all letters.

    Raises:
        FittingError: The vocabulary is not one of single characters.
    """
    tokenizer = processor.tokenizer
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    known = {token: index for token, index in vocabulary.items() if len(token) == 1}
    _extend_tokenizer(tokenizer, characters, first=max(vocabulary.values()) + 1)
    added = {character: tokenizer.convert_tokens_to_ids(character) for character in characters}
    rows = max(model.get_input_embeddings().num_embeddings, max(added.values()) + 1)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.config.text_config.vocab_size = rows
    with torch.no_grad():
        for weight in {model.get_input_embeddings().weight, model.lm_head.weight}:  # (V, D)
            letters = weight[[known[token] for token in known if token.isalpha()]]
            generator = torch.Generator().manual_seed(0)
            for character, index in added.items():
                stem = known.get(unicodedata.normalize("NFKD", character)[0])
                start = letters.mean(dim=0) if stem is None else weight[stem]
                noise = torch.randn(start.shape, generator=generator).to(start)
                weight[index] = start + _NOISE * letters.std(dim=0) * noise


def _extend_tokenizer(
    tokenizer: PreTrainedTokenizerFast, characters: Sequence[str], first: int
) -> None:
    description = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if description["type"] != "WordLevel":
        raise FittingError(
            f"The base's vocabulary cannot be given new characters: {' '.join(characters)}"
        )
    vocabulary = description["vocab"]
    vocabulary.update({character: first + place for place, character in enumerate(characters)})
    tokenizer.backend_tokenizer.model = models.WordLevel(
        vocabulary, unk_token=description["unk_token"]
    )
