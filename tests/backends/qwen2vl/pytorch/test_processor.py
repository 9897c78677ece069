from __future__ import annotations

import pytest

from qwen_captcha.backends.qwen2vl.pytorch.processor import end_token_ids
from tests.support.checkpoints import END_IDS, IDS, Shape, small_model, small_processor

pytestmark = pytest.mark.live


def test_everything_that_may_end_an_answer_ends_it() -> None:
    model, processor = small_model(Shape()), small_processor()
    assert end_token_ids(model, processor) == set(END_IDS)
    model.generation_config.eos_token_id = None
    model.config.text_config.eos_token_id = IDS["z"]
    ends = {IDS["<|im_end|>"], IDS["<|endoftext|>"], IDS["z"]}
    assert end_token_ids(model, processor) == ends
