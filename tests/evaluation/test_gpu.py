"""The GPU benchmark on a CPU, with a tiny shape: what it computes is checked, not how fast."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from evaluation.gpu import __main__ as gpu
from evaluation.gpu.random_model import IMAGE_TOKEN, random_model
from evaluation.gpu.static_decoding import StaticDecoding
from evaluation.published.layout import SHAPE_7B, flat_config
from qwen_captcha.backends.qwen2vl.greedy import decode_greedily
from qwen_captcha.backends.qwen2vl.language_model import Prompts
from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchModel
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import SMALL_PUBLISHED_SHAPE, noise_images

pytestmark = pytest.mark.live

TINY = replace(SMALL_PUBLISHED_SHAPE, vision_depth=1)
LITTLE = gpu.Effort(repeats=1, batch_sizes=(1, 2), clients=2, captchas=2, copied_bytes=2**16)


def test_the_7b_has_the_published_numbers() -> None:
    config = flat_config(SHAPE_7B)
    assert (config["hidden_size"], config["intermediate_size"]) == (3584, 18944)
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (28, 4)
    assert (config["vocab_size"], config["tie_word_embeddings"]) == (152064, False)
    assert config["num_hidden_layers"] == 28


def test_every_metric_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main({"tiny": TINY}, device="cpu", effort=LITTLE)
    _, _, _, name, *lines = capsys.readouterr().out.splitlines()
    assert name == "tiny"
    figures = {line[:28].rstrip(): line[28:] for line in lines}
    assert list(figures) == [
        "decoder weights",
        "memory, by a copy",
        "limit of a further token",
        "first token",
        "further token",
        "captcha",
        "batch of 1",
        "batch of 2",
        "vision encoder, 1 images",
        "vision encoder, 2 images",
        "2 clients",
        "static cache, 1 rows",
        "  step by step",
        "static cache, 2 rows",
    ]
    assert figures["static cache, 1 rows"].endswith(" of 6 tokens as the loop")


def test_a_measurement_that_would_start_too_late_is_skipped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hours = count(step=3600)
    gpu.main({"tiny": TINY}, device="cpu", effort=LITTLE, clock=lambda: float(next(hours)))
    lines = capsys.readouterr().out.splitlines()[4:]
    assert len(lines) == 6
    assert all(line.endswith("left out: the time is over") for line in lines)


def test_without_a_gpu_the_command_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA GPU"):
        gpu.main()


def test_static_decoding_chooses_the_tokens_of_the_loop_each_time() -> None:
    random = random_model(TINY, "cpu")
    # In fp32 no two tokens are as likely, and with large weights the answers differ.
    with torch.no_grad():
        for parameter in random.model.float().parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    model = PyTorchModel(random.model)
    requests = [GenerationRequest(image, "", 6) for image in noise_images([(160, 60)] * 3)]
    batch = random.preprocessor.prepare(requests)
    with torch.inference_mode():
        prompts = Prompts.read(model, batch, np.empty((3, 0), dtype=np.int64), 6)
        first = torch.from_numpy(prompts.log_probabilities.argmax(axis=-1))
        expected = [row.token_ids for row in decode_greedily(prompts, random.vocabulary, [6] * 3)]
        decoding = StaticDecoding(model.decoder, prompts.cache, first, 6)
        assert decoding.run(decoding.step).tolist() == expected
        assert decoding.run(decoding.step).tolist() == expected
    assert len({tuple(row) for row in expected}) == 3


def test_the_prompt_has_one_image() -> None:
    random = random_model(TINY, "cpu")
    [image] = noise_images([(160, 60)])
    batch = random.preprocessor.prepare([GenerationRequest(image, "Read it.", 6)])
    rows, columns = batch.grids[0]
    assert (batch.input_ids == IMAGE_TOKEN).sum() == rows * columns // 4
