"""The training loop of `qwen-captcha fit`: some minutes, of which the best weights are kept.

When the loop ends, by itself or by Ctrl-C, the model has the best weights on the held-out images.
The loop ends early where they no longer improve.

Rehearsal: a few hundred steps on forty images of one look undo much of what the base reads, so that
each step has some images of what the base was trained on. Averaged weights: the mean over the last
steps reads better than any of them, and its mean with the base's weights reads others' captchas
better still. Source: Wortsman et al. 2022, https://arxiv.org/abs/2109.01903.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Qwen2VLForConditionalGeneration

from qwen_captcha.backends.hardware import cpu_flags
from qwen_captcha.backends.qwen2vl.pytorch.placement import FAST_BF16_FLAGS
from qwen_captcha.fitting.examples import Batch, Examples
from qwen_captcha.fitting.learning.teacher_forcing import TeacherForcing

# Shares of the fitted weights in the means with the base's that are tested at the end.
_SHARES = (0.8, 0.6, 0.4)
# A loss on the rehearsal images above the base's counts so many times as one on the user's: on the
# trial checkpoint, 0.035 more of it was 0.02 less read right.
_FORGETTING = 5.0
# With new characters it counts less: some of them look like known ones (Cyrillic and Latin A).
_FORGETTING_WITH_NEW_TOKENS = 2.0
# Below this loss on the user's images there is nothing left to learn; the learning rate then goes
# on from where it is after this share of the time.
_LEARNT, _LAST_PART = 0.02, 0.75
_GRADIENT_NORM = 1.0
# A step of the embedding of a new character, in full steps of the others: it starts from nothing.
# The others' steps rise to the full one so many times as slowly meanwhile, or large losses would
# undo much of what the base knows.
_NEW_TOKEN_STEPS, _NEW_TOKEN_WARM_UPS = 10.0, 3


@dataclass(frozen=True, slots=True)
class Recipe:
    """The parameters of a fit.

    Attributes:
        learning_rate: At its peak, from which it falls to 0 over the time.
        batch_size: Images a step, those of rehearsal included.
        rehearsal_share: Of a batch, at the beginning and at the end: a look is learnt in the first
            half of the time, and what was forgotten in between is learnt again in the second.
        unaided_share: See `TeacherForcing.losses`.
        warm_up_steps: Over which the learning rate rises.
        average_decay: Of the averaged weights, a step.
        tests: How often the held-out images are read.
    """

    learning_rate: float = 3e-4
    batch_size: int = 32
    rehearsal_share: tuple[float, float] = (0.2, 0.6)
    unaided_share: float = 0.2
    warm_up_steps: int = 15
    average_decay: float = 0.97
    tests: int = 8


@dataclass(frozen=True, slots=True)
class Material:
    """The data for training and for testing.

    Attributes:
        own: The user's captchas.
        own_held_out: Others of them.
        rehearsal: Captchas that the base was trained on, None where there are none.
        rehearsal_held_out: Others of them.
    """

    own: Examples
    own_held_out: Sequence[Batch]
    rehearsal: Examples | None
    rehearsal_held_out: Sequence[Batch]


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """The model's results on the held-out images.

    Attributes:
        share: Of the time that is over.
        steps: That were made.
        loss: On the user's.
        right: Share of the user's that are read exactly.
        rehearsal_loss: On the base's, 0 where there are none.
        rehearsal_right: Share of these.
    """

    share: float
    steps: int
    loss: float
    right: float
    rehearsal_loss: float
    rehearsal_right: float


def fast_bf16() -> bool:
    """Return whether bf16 arithmetic is faster than fp32 here."""
    return torch.cuda.is_available() or not FAST_BF16_FLAGS.isdisjoint(cpu_flags())


class Trainer:
    """One run.

    Args:
        model: What learns: its parameters that require a gradient.
        forcing: Computes its losses.
        material: Images.
        recipe: How it learns.
        seconds: How long.
        clock: Says how much time is over, in seconds.
        report: Called with each test.
        keep: Called when the model's weights are the best so far.
        new_tokens: Ids of the characters that the base did not know.
    """

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        forcing: TeacherForcing,
        material: Material,
        recipe: Recipe,
        *,
        seconds: float,
        clock: Callable[[], float],
        report: Callable[[HeldOutScore], None],
        keep: Callable[[], None],
        new_tokens: Sequence[int] = (),
    ) -> None:
        self._forcing = forcing
        self._material = material
        self._recipe = recipe
        self._new_tokens = list(new_tokens)
        self._seconds = seconds
        self._clock = clock
        self._report = report
        self._keep = keep
        self._bf16 = fast_bf16()
        self._device_type: str = model.device.type
        self._rng = random.Random(0)
        self._parameters = [value for value in model.parameters() if value.requires_grad]
        self._base = self._copy()
        self._average = self._copy()
        self._embedding: nn.Parameter = model.get_input_embeddings().weight
        self._used = self._used_rows()
        self._optimizer = torch.optim.AdamW(
            self._parameters, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )
        self.steps = 0
        self._share = 0.0
        self._best: tuple[float, list[torch.Tensor]] | None = None
        self._skipped = 0.0
        self._base_test: HeldOutScore | None = None

    @property
    def improved(self) -> bool:
        """Whether the model has weights other than the base's."""
        return self._best is not None

    def run(self) -> None:
        """Train until the time is over, sooner where all is learnt or the user interrupts."""
        torch.manual_seed(0)
        self._base_test = self._test()
        started = self._clock()
        tests = 0
        try:
            while self._share < 1:
                self._step()
                passed = (self._clock() - started) / self._seconds
                self._share = min(1.0, passed + self._skipped)
                if self._share * self._recipe.tests >= tests + 1:
                    tests += 1
                    if self._consider(self._average).loss < _LEARNT:
                        self._skipped += max(0.0, _LAST_PART - self._share)
            for share in _SHARES:
                self._consider(self._mean_with_base(share))
        except KeyboardInterrupt:
            pass
        if self._best is not None:
            self._load(self._best[1])

    def _step(self) -> None:
        recipe = self._recipe
        first, last = recipe.rehearsal_share
        share = first + (last - first) * self._share if self._material.rehearsal else 0.0
        own = round(recipe.batch_size * (1 - share))
        self._optimizer.zero_grad()
        self._learn(self._material.own, own, 1 - share)
        if self._material.rehearsal is not None:
            self._learn(self._material.rehearsal, recipe.batch_size - own, share)
        if self._embedding.grad is not None:
            # AdamW's step has one size for all rows: those without an example would wander.
            self._embedding.grad.mul_(self._used)
        nn.utils.clip_grad_norm_(self._parameters, _GRADIENT_NORM)
        warm_up = recipe.warm_up_steps * (_NEW_TOKEN_WARM_UPS if self._new_tokens else 1)
        rising = min(1.0, (self.steps + 1) / warm_up)
        falling = 0.5 * (1 + math.cos(math.pi * self._share))
        for group in self._optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rising * falling
        new = self._embedding.detach()[self._new_tokens]
        self._optimizer.step()
        with torch.no_grad():
            stepped = self._embedding[self._new_tokens]
            self._embedding[self._new_tokens] = new.lerp(stepped, _NEW_TOKEN_STEPS / rising)
        # At first over all steps so far, or the base's weights would stay in the mean.
        decay = min(recipe.average_decay, self.steps / (4 + self.steps))
        live = [value.detach() for value in self._parameters]
        torch._foreach_lerp_(self._average, live, 1 - decay)
        self.steps += 1

    def _learn(self, examples: Examples, count: int, weight: float) -> None:
        batch = examples.draw(count, self._rng)
        with self._autocast():
            outcome = self._forcing.losses(batch.pictures, batch.texts, self._recipe.unaided_share)
        loss: torch.Tensor = weight * outcome.losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device_type, torch.bfloat16, enabled=self._bf16)

    def _used_rows(self) -> torch.Tensor:
        """Return a mask (V, 1) of the tokens that occur in texts."""
        used = torch.zeros(len(self._embedding), 1, device=self._embedding.device)
        for examples in (self._material.own, self._material.rehearsal):
            if examples is not None:
                used[self._forcing.token_ids(examples.texts)] = 1
        return used

    def _consider(self, weights: Sequence[torch.Tensor]) -> HeldOutScore:
        """Test weights, keep them if they are the best so far, and return the test."""
        with self._with_weights(weights):
            test = self._test()
            score = self.score(test)
            if self._best is None or score < self._best[0]:
                self._best = (score, self._copy())
                self._keep()
        return test

    def score(self, test: HeldOutScore) -> float:
        """Return the score of a test, by which the best is chosen; lower is better."""
        assert self._base_test is not None
        forgotten = max(0.0, test.rehearsal_loss - self._base_test.rehearsal_loss)
        weight = _FORGETTING_WITH_NEW_TOKENS if self._new_tokens else _FORGETTING
        return test.loss + weight * forgotten

    @torch.inference_mode()
    def _test(self) -> HeldOutScore:
        own = self._read(self._material.own_held_out)
        rehearsal = self._read(self._material.rehearsal_held_out)
        test = HeldOutScore(self._share, self.steps, *own, *rehearsal)
        self._report(test)
        return test

    def _read(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """Return the mean loss and the share that is read exactly."""
        loss, right, count = 0.0, 0.0, 0
        for batch in batches:
            with self._autocast():
                outcome = self._forcing.losses(batch.pictures, batch.texts)
            loss += float(outcome.losses.sum())
            right += float(outcome.right.sum())
            count += len(batch.texts)
        return loss / max(1, count), right / max(1, count)

    def _mean_with_base(self, share: float) -> list[torch.Tensor]:
        """Return the mean, without the base's embeddings of new characters: it knew none."""
        mean = [
            base.lerp(fitted, share) for base, fitted in zip(self._base, self._average, strict=True)
        ]
        for value, fitted, parameter in zip(mean, self._average, self._parameters, strict=True):
            if parameter is self._embedding:
                value[self._new_tokens] = fitted[self._new_tokens]
        return mean

    def _copy(self) -> list[torch.Tensor]:
        return [value.detach().clone() for value in self._parameters]

    @torch.no_grad()
    def _load(self, weights: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, weights, strict=True):
            parameter.copy_(value)

    @contextmanager
    def _with_weights(self, weights: Sequence[torch.Tensor]) -> Iterator[None]:
        """Give the model other weights for a while."""
        live = self._copy()
        self._load(weights)
        try:
            yield
        finally:
            self._load(live)
