"""The loop learns, keeps what is best, leaves rows without an example, and can be cut short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.preprocessing import Preprocessor
from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.placement import LoadPlan, Precision
from qwen_captcha.backends.qwen2vl.pytorch.processor import processor_config
from qwen_captcha.fitting.examples import Example, Examples, PreparedView
from qwen_captcha.fitting.learning.teacher_forcing import TeacherForcing
from qwen_captcha.fitting.trainer import HeldOutScore, Material, Recipe, Trainer
from tests.support.checkpoints import IDS, PIXEL_RANGE
from tests.support.own_captchas import draw_text

pytestmark = pytest.mark.live

RECIPE = Recipe(learning_rate=3e-3, batch_size=8, tests=4)


@dataclass
class Run:
    """A trainer over a small model, with what it reported and kept."""

    model: Qwen2VLForConditionalGeneration
    processor: Qwen2VLProcessor
    tests: list[HeldOutScore] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)

    def trainer(
        self,
        steps: int,
        rehearsal: str = "",
        on_step: Callable[[int], None] = lambda _: None,
        new: Sequence[int] = (),
    ) -> Trainer:
        """Return a trainer whose clock ticks once a step."""

        def ticks() -> Iterator[float]:
            for tick in range(10_000):
                on_step(tick)
                yield float(tick)

        size_shown = Preprocessor(processor_config(self.processor)).size_shown
        clock = ticks()

        def examples(texts: list[str]) -> Examples:
            made = [Example(text, draw_text(text), text, text) for text in texts]
            return Examples(made, [PreparedView(lambda picture: picture, size_shown, 1)])

        own = examples(["1234", "4321", "1111", "2222", "1212", "3434"])
        others = examples(rehearsal.split()) if rehearsal else None
        return Trainer(
            self.model,
            TeacherForcing(self.model, self.processor, "read"),
            Material(own, own.batches(8), others, others.batches(8) if others else []),
            RECIPE,
            seconds=steps,
            clock=lambda: next(clock),
            report=self.tests.append,
            keep=lambda: self.kept.append(self.norm()),
            new_tokens=new,
        )

    def norm(self) -> torch.Tensor:
        return self.model.model.language_model.norm.weight.detach().clone()


@pytest.fixture
def run(small_base: Path) -> Run:
    model = loading.load_model(small_base, LoadPlan(Precision.FP32))
    return Run(model, loading.load_processor(small_base, PIXEL_RANGE))


def test_it_learns_and_leaves_the_best_weights_in_the_model(run: Run) -> None:
    trainer = run.trainer(steps=60)
    trainer.run()
    losses = [test.loss for test in run.tests]
    assert min(losses) < 0.5 * losses[0]
    # The last that was kept is the best, and is what the model holds.
    torch.testing.assert_close(run.norm(), run.kept[-1])
    assert len(run.kept) <= len(losses) - 1
    assert trainer.improved


def test_rows_of_tokens_without_an_example_stay(run: Run) -> None:
    before = run.model.get_input_embeddings().weight.detach().clone()
    run.trainer(steps=6, rehearsal="abab baba").run()
    changed = (run.model.get_input_embeddings().weight != before).any(dim=1)
    used = {"1", "2", "3", "4", "a", "b", "<|im_end|>"}
    assert {token for token, row in IDS.items() if changed[row]} == used


def test_embeddings_of_new_characters_learn_faster(run: Run) -> None:
    before = run.model.get_input_embeddings().weight.detach().clone()
    run.trainer(steps=1, new=[IDS["4"]]).run()
    moved = (run.model.get_input_embeddings().weight - before).abs().mean(dim=1)
    assert moved[IDS["4"]] > 5 * moved[IDS["3"]] > 0


def test_a_mean_with_the_base_keeps_the_embeddings_of_new_characters(run: Run) -> None:
    before = run.model.get_input_embeddings().weight.detach().clone()
    trainer = run.trainer(steps=4, new=[IDS["4"]])
    trainer.run()
    place = next(
        place
        for place, value in enumerate(trainer._parameters)
        if value is run.model.get_input_embeddings().weight
    )
    mean, fitted = trainer._mean_with_base(0.5)[place], trainer._average[place]
    torch.testing.assert_close(mean[IDS["4"]], fitted[IDS["4"]])
    torch.testing.assert_close(mean[IDS["3"]], (before[IDS["3"]] + fitted[IDS["3"]]) / 2)


def test_weights_with_a_higher_loss_on_rehearsal_score_lower(run: Run) -> None:
    """The same progress on the user's images is worth less where the others' loss rises."""
    trainer = run.trainer(steps=4, rehearsal="abab")
    trainer.run()
    base = run.tests[0]
    faithful = replace(base, loss=0.5)
    forgetful = replace(faithful, rehearsal_loss=base.rehearsal_loss + 0.2)
    assert trainer.score(faithful) < trainer.score(forgetful)
    assert trainer.score(faithful) == trainer.score(replace(faithful, rehearsal_loss=0.0))


def test_training_ends_early_where_the_loss_is_low(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qwen_captcha.fitting.trainer._LEARNT", 1000.0)
    trainer = run.trainer(steps=20)
    trainer.run()
    # A quarter until the first test, and the last quarter.
    assert 9 <= trainer.steps <= 11


def test_an_interrupt_leaves_the_best_weights(run: Run) -> None:
    def interrupt(tick: int) -> None:
        if tick == 25:
            raise KeyboardInterrupt

    trainer = run.trainer(steps=60, on_step=interrupt)
    trainer.run()
    assert trainer.improved
    assert run.tests[-1].steps < 30
    torch.testing.assert_close(run.norm(), run.kept[-1])


def test_a_run_without_a_test_has_not_improved(run: Run) -> None:
    def interrupt(tick: int) -> None:
        if tick == 2:
            raise KeyboardInterrupt

    trainer = run.trainer(steps=60, on_step=interrupt)
    trainer.run()
    assert not trainer.improved
    assert run.kept == []
