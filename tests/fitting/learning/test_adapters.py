from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qwen_captcha.backends.qwen2vl.preprocessing import Preprocessor
from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.placement import LoadPlan, Precision
from qwen_captcha.backends.qwen2vl.pytorch.processor import processor_config
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.fitting.checkpoint_writer import CheckpointWriter
from qwen_captcha.fitting.errors import FittingError
from qwen_captcha.fitting.examples import Example, Examples, PreparedView
from qwen_captcha.fitting.learning import adapters
from qwen_captcha.fitting.learning.teacher_forcing import TeacherForcing
from qwen_captcha.fitting.trainer import Material, Recipe, Trainer
from tests.support.checkpoints import PIXEL_RANGE
from tests.support.own_captchas import draw_text

pytestmark = pytest.mark.live

WEIGHTS = Weights(2_209_000_000)


def test_without_a_gpu_the_error_estimates_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapters, "usable_cores", lambda: 4)
    with pytest.raises(FittingError) as refusal:
        adapters.check_large("Qwen/Qwen2-VL-2B-Instruct", WEIGHTS, gpus=0)
    assert str(refusal.value) == (
        "Qwen/Qwen2-VL-2B-Instruct has 2.2 billion parameters: to fit it on 4 CPU cores would "
        "take some 9 hours. Use a machine with a GPU, or --base bundled."
    )


def test_without_peft_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    with pytest.raises(FittingError, match=r'pip install "qwen-captcha\[large\]"'):
        adapters.check_large("big", WEIGHTS, gpus=1)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks it
def test_adapters_learn_and_are_merged_into_a_checkpoint_that_loads(
    published_base: Path, tmp_path: Path
) -> None:
    model = loading.load_model(published_base, LoadPlan(Precision.FP32))
    processor = loading.load_processor(published_base, PIXEL_RANGE)
    frozen = model.model.language_model.norm.weight.detach().clone()
    adapted = adapters.add_adapters(model)
    size_shown = Preprocessor(processor_config(processor)).size_shown
    texts = ["a3b9", "7qqx", "0421"]
    made = [Example(text, draw_text(text), text, text) for text in texts]
    own = Examples(made, [PreparedView(lambda picture: picture, size_shown, 1)])
    ticks = iter(range(1000))
    losses: list[float] = []
    Trainer(
        model,
        TeacherForcing(model, processor, "read"),
        Material(own, own.batches(8), None, []),
        Recipe(learning_rate=5e-3, batch_size=3, tests=3),
        seconds=20,
        clock=lambda: next(ticks),
        report=lambda test: losses.append(test.loss),
        keep=lambda: None,
    ).run()
    assert min(losses) < 0.8 * losses[0]
    merged = adapters.merge_adapters(adapted)
    writer = CheckpointWriter(tmp_path / "fitted", published_base, processor)
    writer.write_weights(merged)

    served = loading.load_model(tmp_path / "fitted", LoadPlan(Precision.FP32))
    torch.testing.assert_close(served.model.language_model.norm.weight, frozen)
    with torch.inference_mode():
        [batch] = own.batches(8)
        forcing = TeacherForcing(served, processor, "read")
        served_loss = forcing.losses(batch.pictures, batch.texts).losses.mean()
    assert float(served_loss) == pytest.approx(min(losses), rel=0.1)
