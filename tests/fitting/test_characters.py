from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.placement import LoadPlan, Precision
from qwen_captcha.backends.qwen2vl.pytorch.processor import create_engine
from qwen_captcha.fitting.characters import add_characters, missing_characters
from qwen_captcha.fitting.checkpoint_writer import CheckpointWriter
from qwen_captcha.fitting.errors import FittingError
from qwen_captcha.recognition.charsets import Charset
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import CHARACTERS, IDS, PIXEL_RANGE
from tests.support.own_captchas import draw_text

pytestmark = pytest.mark.live

# Cyrillic, accented, kana, Hangul, Thai with a vowel of its own code point, Arabic.
NEW = sorted("жЩéかハ한กำم")

Loaded = tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]


@pytest.fixture
def loaded(small_base: Path) -> Loaded:
    model = loading.load_model(small_base, LoadPlan(Precision.FP32))
    return model, loading.load_processor(small_base, PIXEL_RANGE)


def test_characters_that_are_unknown_are_found(loaded: Loaded) -> None:
    _, processor = loaded
    assert missing_characters(processor.tokenizer, ["a3", "ж3", "3éж"]) == ["é", "ж"]


def test_known_characters_have_the_same_id_and_embedding(loaded: Loaded) -> None:
    model, processor = loaded
    before = model.get_input_embeddings().weight.detach().clone()
    add_characters(model, processor, NEW)
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == len(IDS) + len(NEW) == model.config.text_config.vocab_size
    torch.testing.assert_close(weight[: len(IDS)], before)
    assert {token: processor.tokenizer.convert_tokens_to_ids(token) for token in IDS} == IDS


def test_new_characters_differ_and_an_accented_one_starts_near_its_letter(loaded: Loaded) -> None:
    model, processor = loaded
    add_characters(model, processor, NEW)
    weight = model.lm_head.weight.detach()
    new = weight[len(IDS) :]
    assert len({tuple(row.tolist()) for row in new}) == len(NEW)
    accented = new[NEW.index("é")]
    distances = (weight[: len(IDS)] - accented).norm(dim=1)
    assert int(distances.argmin()) == IDS["e"]


def test_a_checkpoint_with_new_characters_is_served_and_restricted_to_them(
    loaded: Loaded, small_base: Path, tmp_path: Path
) -> None:
    model, processor = loaded
    add_characters(model, processor, NEW)
    CheckpointWriter(tmp_path / "new", small_base, processor).write_weights(model)
    served = loading.load_model(tmp_path / "new", LoadPlan(Precision.FP32))
    reader = create_engine(served, loading.load_processor(tmp_path / "new", PIXEL_RANGE))
    only = DecodingConstraints(charset=Charset.of("жЩ"), min_length=4, max_length=4)
    [reading] = reader.read([GenerationRequest(draw_text("1234"), "read", 12, only)])
    assert len(reading.raw_response) == 4
    assert set(reading.raw_response) <= set("жЩ")
    assert missing_characters(processor.tokenizer, [CHARACTERS, *NEW]) == []


def test_a_vocabulary_of_bytes_is_rejected_and_needs_nothing(loaded: Loaded) -> None:
    model, processor = loaded
    from tokenizers import models

    processor.tokenizer.backend_tokenizer.model = models.BPE(dict(IDS), [])
    with pytest.raises(FittingError, match="cannot be given new characters: ж"):
        add_characters(model, processor, ["ж"])
