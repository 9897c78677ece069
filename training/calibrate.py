"""Fit how far a checkpoint's confidence can be trusted, on captchas that it has never seen.

Responsible for: reading rendered captchas in typefaces kept from training, at full difficulty, by
the service's own backend, and fitting `calibration.json` to what was right. Invariant: the figures
it prints are of images that were not fitted to.

Real captchas are harder than those of training: only the hardest styles of each kind are drawn, so
that an output that seems sure and is wrong occurs here, too. Right means letter case ignored.

Run: `python -m training.calibrate CHECKPOINT [--images 6000]`; it writes the file beside the
weights.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional
from tqdm import tqdm  # type: ignore[import-untyped]

from qwen_captcha.backends.qwen2vl.backend import Qwen2VLBackend
from qwen_captcha.recognition.answer import image_shown
from qwen_captcha.recognition.calibration import (
    Calibration,
    Curve,
    Evidence,
    log_odds_of,
)
from qwen_captcha.recognition.candidates import find_candidates
from qwen_captcha.recognition.confidence import evidence_of, kind_of_answer
from qwen_captcha.recognition.extraction import extract_answer
from qwen_captcha.recognition.options import Options
from qwen_captcha.recognition.prompts import prompt_for
from qwen_captcha.recognition.reading import (
    Capabilities,
    GenerationOutput,
    GenerationRequest,
)
from qwen_captcha.scores import auroc, ece
from qwen_captcha.settings import load_settings
from training.held_out import draw_held_out
from training.rendering.fonts import FontLibrary

SEED = 40_000_000
# Below these a kind's own curve is more noise than knowledge.
MIN_OF_A_KIND = 300
MIN_OF_EACH_OUTCOME = 30
_BATCH_SIZE = 16
# Towards half of each log-odds, which is the bare probability where one token alone is unsure.
_PRIOR = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
_PRIOR_WEIGHT = 2.0

Captcha = tuple[Image.Image, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer of the model.

    Attributes:
        kind: Of the answer, as the service will know it.
        evidence: What bears on whether it is right.
        right: Whether it is, letter case ignored.
    """

    kind: str
    evidence: Evidence
    right: bool


def draw(count: int, seed: int) -> Iterator[Captcha]:
    """Yield captchas of the last level in held-out typefaces, with what is drawn."""
    fonts = FontLibrary.open(held_out=True)
    for drawn, text, _ in draw_held_out(count, fonts, seed, easiest=1.0):
        yield Image.fromarray(drawn.image), text.replace(" ", "")


def collect(
    captchas: Sequence[Captcha],
    read: Callable[[Sequence[GenerationRequest]], list[GenerationOutput]],
    capabilities: Capabilities,
) -> list[Outcome]:
    """Have captchas read as the service would; return an outcome for each that has an answer."""
    options = Options()
    shown = [image_shown(image, capabilities) for image, _ in captchas]
    requests = [GenerationRequest(image, prompt_for(options), 32) for image in shown]
    outcomes = []
    for (_, drawn), output in zip(captchas, read(requests), strict=True):
        truth = extract_answer(drawn, options, answers_questions=capabilities.answers_questions)
        candidates = find_candidates(output, options, capabilities)
        evidence = evidence_of(candidates[0]) if candidates else None
        # A drawn expression without a value has no right answer.
        if truth is not None and evidence is not None:
            right = candidates[0].extracted.text.casefold() == truth.text.casefold()
            outcomes.append(Outcome(kind_of_answer(candidates[0]), evidence, right))
    return outcomes


def fit(outcomes: Sequence[Outcome]) -> Calibration:
    """Return a curve for all outcomes, and one for each kind with enough of them."""
    kinds = {outcome.kind for outcome in outcomes}
    by_kind = {kind: [o for o in outcomes if o.kind == kind] for kind in kinds}
    curves = {kind: fit_curve(some) for kind, some in by_kind.items() if _enough(some)}
    return Calibration(fit_curve(outcomes), curves)


def fit_curve(outcomes: Sequence[Outcome]) -> Curve:
    """Return the most likely curve whose slopes do not fall, with a weak prior."""
    features = torch.tensor(
        [
            [1.0, log_odds_of(e.whole), log_odds_of(e.weakest)]
            for e in (outcome.evidence for outcome in outcomes)
        ],
        dtype=torch.float64,
    )  # (N, 3)
    right = torch.tensor([float(outcome.right) for outcome in outcomes], dtype=torch.float64)
    parameters = _PRIOR.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        weights = _rising(parameters)
        misfit = functional.binary_cross_entropy_with_logits(
            features @ weights, right, reduction="sum"
        )
        total: torch.Tensor = misfit + _PRIOR_WEIGHT * (weights - _PRIOR).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return Curve(*_rising(parameters).tolist())


def _rising(parameters: torch.Tensor) -> torch.Tensor:
    """Return the bias and the slopes, which are not below zero."""
    bias, whole, weakest = parameters
    return torch.stack([bias, whole.abs(), weakest.abs()])


def _enough(outcomes: Sequence[Outcome]) -> bool:
    right = sum(outcome.right for outcome in outcomes)
    fewest = min(right, len(outcomes) - right)
    return len(outcomes) >= MIN_OF_A_KIND and fewest >= MIN_OF_EACH_OUTCOME


def figures_of(calibration: Calibration | None, outcomes: Sequence[Outcome]) -> dict[str, object]:
    """Return how well a calibration, or the bare probability, tells right from wrong."""
    bare = Calibration(Curve(0.0, 1.0, 0.0), {})
    judge = calibration or bare
    confidences = [judge.confidence(outcome.kind, outcome.evidence) for outcome in outcomes]
    right = [outcome.right for outcome in outcomes]
    return {"ece": _short(ece(confidences, right)), "auroc": _short(auroc(confidences, right))}


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def calibrate(checkpoint: Path, images: int, seed: int) -> dict[str, object]:
    """Fit the calibration of a checkpoint, write it into its folder and return the figures."""
    settings = load_settings({})
    backend = Qwen2VLBackend(
        str(checkpoint),
        model_name=checkpoint.name,
        use_gpu=True,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
    )
    backend.load()
    outcomes: list[Outcome] = []
    captchas = draw(images, seed)
    with tqdm(total=images, unit="image", disable=None, leave=False) as bar:
        while batch := list(islice(captchas, _BATCH_SIZE)):
            outcomes += collect(batch, backend.read, backend.capabilities)
            bar.update(len(batch))
    half = len(outcomes) // 2
    calibration = fit(outcomes[:half])
    figures: dict[str, object] = {
        "images": images,
        "seed": seed,
        "fitted": half,
        "tested": len(outcomes) - half,
        "accuracy": _short(sum(o.right for o in outcomes) / max(1, len(outcomes))),
        "bare": figures_of(None, outcomes[half:]),
        "calibrated": figures_of(calibration, outcomes[half:]),
    }
    calibration.write(checkpoint, figures)
    return figures


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--images", type=int, default=6000, help="half of them are fitted to")
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures = calibrate(arguments.checkpoint, arguments.images, arguments.seed)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
