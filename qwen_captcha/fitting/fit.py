"""Fit a checkpoint to labelled captchas: from a folder to a folder that is served.

    card = fit(read_samples(Path("captchas")), Request(out=Path("mine"), minutes=4))

The order is: data, checks, new characters, training, calibration, card. No image is in both the
training and the test part. The new checkpoint is complete from its first improvement on.
"""

from __future__ import annotations

import random
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.utils import logging as transformers_logging

from qwen_captcha.backends.qwen2vl.preprocessing import Preprocessor
from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.placement import LoadPlan, Precision
from qwen_captcha.backends.qwen2vl.pytorch.processor import processor_config
from qwen_captcha.checkpoints.files import (
    CheckpointFiles,
    View,
    download_checkpoint,
    find_checkpoint,
)
from qwen_captcha.checkpoints.resolve import BUNDLED, resolve_model
from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.fitting.calibrating import Outcome, fit_to_copies, outcomes_of
from qwen_captcha.fitting.card import (
    Card,
    Score,
    calibration_error,
    recommended_confidence,
)
from qwen_captcha.fitting.characters import add_characters, missing_characters
from qwen_captcha.fitting.checkpoint_reader import CheckpointReader
from qwen_captcha.fitting.checkpoint_writer import CheckpointWriter, check_out, write_texts
from qwen_captcha.fitting.checks import LeftOut, check_labels, check_pictures
from qwen_captcha.fitting.errors import FittingError
from qwen_captcha.fitting.examples import Example, Examples, PreparedView
from qwen_captcha.fitting.learning import adapters
from qwen_captcha.fitting.learning.augmentation import augment
from qwen_captcha.fitting.learning.teacher_forcing import TeacherForcing
from qwen_captcha.fitting.rehearsal import read_rehearsal
from qwen_captcha.fitting.trainer import HeldOutScore, Material, Recipe, Trainer
from qwen_captcha.images.decode import ImageLimits, decode_image
from qwen_captcha.recognition.answer import answer_from_output
from qwen_captcha.recognition.calibration import CALIBRATION
from qwen_captcha.recognition.plan import RecognitionPlan, image_shown
from qwen_captcha.samples import Sample
from qwen_captcha.settings import load_settings

MIN_EXAMPLES = 10
# Of the user's images, for tests and calibration; of the rehearsal set one in so many.
_HELD_OUT_SHARE, _MIN_HELD_OUT, _MAX_HELD_OUT = 0.15, 3, 60
_REHEARSAL_HELD_OUT_EVERY = 12
# Changed copies of each held-out image, and of all of them, to which the calibration is fitted.
_MAX_COPIES, _MAX_CHANGED = 8, 96
_BATCH_SIZE = 32
_LIMITS = ImageLimits(max_image_pixels=12_500_000, max_frames=100)
# Left-out images that are named one by one.
_MAX_NAMED = 20


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of a fit.

    Attributes:
        out: Folder of the new checkpoint.
        base: `bundled`, a folder or a hub name.
        minutes: Of training; reading before and after it takes as long again as a few images do.
        use_gpu: Where there is one.
    """

    out: Path
    base: str = BUNDLED
    minutes: float = 4.0
    use_gpu: bool = True


def fit(
    samples: Sequence[Sample],
    request: Request,
    *,
    log_line: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> Card:
    """Fit a checkpoint and write it.

    Args:
        samples: Labelled images.
        request: What is asked for.
        log_line: Is given each line of progress.
        clock: Tells the time by which is trained, in seconds.

    Raises:
        FittingError: The images, the base or the machine cannot be used.
        ModelLoadError: The base cannot be loaded.
    """
    transformers_logging.disable_progress_bar()  # One for each time that weights are written.
    check_out(request.out)
    _check_enough([sample.label for sample in samples])
    prepared = _prepare(samples, request, log_line)
    new_characters, steps, minutes = _train(prepared, request, log_line, clock)
    card = _judge(prepared, request, new_characters, steps, minutes)
    log_line(card.as_markdown())
    return card


@dataclass(frozen=True, slots=True)
class _Split:
    """Examples to learn from, and others to test with."""

    learnt: list[Example]
    held_out: list[Example]

    @property
    def texts(self) -> list[str]:
        """The texts of all of them."""
        return [example.text for example in (*self.learnt, *self.held_out)]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The data of a training.

    Attributes:
        base: The checkpoint to fit.
        name: What the user calls it.
        gpus: That may be used.
        plan: The plan of the requests to the base.
        own: The user's examples.
        left_out: How many of the user's images are not used.
        rehearsal: The base's.
        before: What the base reads of the examples that are held out.
    """

    base: CheckpointFiles
    name: str
    gpus: int
    plan: RecognitionPlan
    own: _Split
    left_out: int
    rehearsal: _Split
    before: _Results

    @property
    def large(self) -> bool:
        """Whether the base is fitted through adapters."""
        return self.base.weights.parameters > adapters.LARGE


@dataclass(frozen=True, slots=True)
class _Results:
    """The readings of the examples that are held out."""

    own: list[Outcome]
    rehearsal: list[Outcome]


def _prepare(
    samples: Sequence[Sample], request: Request, log_line: Callable[[str], None]
) -> _Prepared:
    """Find the base, check the images and read them with it."""
    checkpoint, name = resolve_model(request.base)
    base = find_checkpoint(checkpoint) or download_checkpoint(checkpoint)
    gpus = len(loading.visible_gpus()) if request.use_gpu else 0
    if base.weights.parameters > adapters.LARGE:
        adapters.check_large(name, base.weights, gpus)
    reader = CheckpointReader(str(base.folder), name, use_gpu=request.use_gpu)
    examples = usable_examples(samples, reader, log_line)
    own = _split(examples)
    rehearsal = _split_rehearsal(read_rehearsal(base.folder))
    if not rehearsal.learnt:
        log_line(f"{name} has no rehearsal set: what it reads besides may be forgotten.")
    log_line(f"{len(own.learnt)} images to learn from, {len(own.held_out)} held out.")
    return _Prepared(
        base=base,
        name=name,
        gpus=gpus,
        plan=reader.plan,
        own=own,
        left_out=len(samples) - len(examples),
        rehearsal=rehearsal,
        before=_read_held_out(reader, own, rehearsal),
    )


def _train(
    prepared: _Prepared,
    request: Request,
    log_line: Callable[[str], None],
    clock: Callable[[], float],
) -> tuple[list[str], int, float]:
    """Train and write the best weights; return new characters, steps and minutes."""
    model, processor = _load(prepared)
    new = missing_characters(processor.tokenizer, prepared.own.texts)
    if new:
        add_characters(model, processor, new)
        log_line(f"New characters: {' '.join(new)}")
    writer = CheckpointWriter(request.out, prepared.base.folder, processor)
    adapted = adapters.add_adapters(model) if prepared.large else None
    trainer = Trainer(
        model,
        TeacherForcing(model, processor, prepared.plan.prompt),
        _material(prepared, processor),
        adapters.RECIPE if prepared.large else Recipe(),
        seconds=60 * request.minutes,
        clock=clock,
        report=lambda test: log_line(_line(test, request.minutes)),
        # Adapters are merged once, at the end.
        keep=(lambda: None) if adapted else (lambda: writer.write_weights(model)),
        new_tokens=processor.tokenizer.convert_tokens_to_ids(new),
    )
    started = clock()
    trainer.run()
    minutes = (clock() - started) / 60
    if not trainer.improved:
        raise FittingError("There was no time for a single test: give it more --minutes.")
    if adapted is not None:
        writer.write_weights(adapters.merge_adapters(adapted))
    return new, trainer.steps, minutes


def _judge(
    prepared: _Prepared, request: Request, new: list[str], steps: int, minutes: float
) -> Card:
    """Read with the new checkpoint, calibrate it and write its card."""
    reader = CheckpointReader(str(request.out), request.out.name, use_gpu=request.use_gpu)
    after = _read_held_out(reader, prepared.own, prepared.rehearsal)
    copies = max(1, min(_MAX_COPIES, _MAX_CHANGED // len(prepared.own.held_out)))
    outcomes = _read_changed(reader, prepared.own.held_out, copies)
    calibration = fit_to_copies(outcomes, copies)
    confidences = [calibration.confidence(o.kind, o.evidence) for o in outcomes]
    right = [outcome.right for outcome in outcomes]
    own, rehearsal = len(prepared.own.held_out), len(prepared.rehearsal.held_out)
    card = Card(
        name=request.out.name,
        base=prepared.name,
        learnt_from=len(prepared.own.learnt),
        left_out=prepared.left_out,
        new_characters="".join(new),
        minutes=round(minutes, 2),
        steps=steps,
        before=_score(prepared.before.own, own),
        after=_score(after.own, own),
        rehearsal_before=_score(prepared.before.rehearsal, rehearsal),
        rehearsal_after=_score(after.rehearsal, rehearsal),
        min_confidence=recommended_confidence(confidences),
        ece=calibration_error(confidences, right),
    )
    fitted_on = {"images": own, "copies": copies, "fitted_by": "qwen-captcha fit"}
    texts = {
        CALIBRATION: calibration.as_json(fitted_on),
        "README.md": card.as_markdown(),
        "training.json": card.as_json(),
    }
    write_texts(request.out, texts)
    return card


def usable_examples(
    samples: Sequence[Sample], reader: CheckpointReader, log_line: Callable[[str], None]
) -> list[Example]:
    """Return the examples that pass all checks; print the others with the reason.

    Raises:
        FittingError: Too few are left, or all have one label.
    """
    examples, unreadable = _decode(samples)
    pictures = check_pictures(examples)
    readings = reader.read([example.picture for example in pictures.examples], "checking")
    answers = [answer_from_output(one, reader.plan) for one in readings]
    labels = check_labels(pictures.examples, answers)
    _report_left_out([*unreadable, *pictures.left_out, *labels.left_out], log_line)
    for note in pictures.notes:
        log_line(f"look at this: {note}")
    usable = labels.examples
    _check_enough([example.label for example in usable])
    return usable


def _check_enough(labels: Sequence[str]) -> None:
    if len(labels) < MIN_EXAMPLES:
        raise FittingError(
            f"{len(labels)} labelled images can be used: at least {MIN_EXAMPLES} are needed."
        )
    if len(set(labels)) == 1:
        raise FittingError(f"All images have the label {labels[0]}: nothing can be learnt.")


def _decode(samples: Sequence[Sample]) -> tuple[list[Example], list[LeftOut]]:
    examples, unreadable = [], []
    for sample in samples:
        label = unicodedata.normalize("NFC", sample.label)
        text = unicodedata.normalize("NFC", sample.expression or label)
        try:
            picture = decode_image(sample.path.read_bytes(), _LIMITS)
        except (OSError, CaptchaServiceError) as error:
            unreadable.append(LeftOut(sample.path.name, str(error)))
        else:
            drawn = "".join(text.split())
            examples.append(Example(sample.path.name, picture, drawn, label))
    return examples, unreadable


def _report_left_out(left_out: Sequence[LeftOut], log_line: Callable[[str], None]) -> None:
    for one in left_out[:_MAX_NAMED]:
        log_line(f"left out: {one.name}: {one.reason}")
    if len(left_out) > _MAX_NAMED:
        log_line(f"left out: {len(left_out) - _MAX_NAMED} more")


def _split(examples: Sequence[Example]) -> _Split:
    """Return the user's examples split by chance, the same each time."""
    shuffled = list(examples)
    random.Random(0).shuffle(shuffled)
    count = round(_HELD_OUT_SHARE * len(examples))
    count = min(max(count, _MIN_HELD_OUT), _MAX_HELD_OUT)
    return _Split(shuffled[count:], shuffled[:count])


def _split_rehearsal(examples: Sequence[Example]) -> _Split:
    held_out = set(range(0, len(examples), _REHEARSAL_HELD_OUT_EVERY))
    return _Split(
        [example for index, example in enumerate(examples) if index not in held_out],
        [example for index, example in enumerate(examples) if index in held_out],
    )


def _load(prepared: _Prepared) -> tuple[Qwen2VLForConditionalGeneration, Qwen2VLProcessor]:
    """Return the base's model, ready to learn, and its processor."""
    facts = prepared.base.facts
    settings = load_settings({})
    pixel_range = facts.pixel_range or (settings.min_pixels, settings.max_pixels)
    precision = Precision.BF16 if prepared.large else Precision.FP32
    plan = LoadPlan(precision, gpu=0 if prepared.gpus else None)
    model = loading.load_model(prepared.base.folder, plan).train()
    if not prepared.gpus:  # The fused kernel's backward pass is slower there.
        model.set_attn_implementation({"text_config": "eager"})
    freeze_first_blocks(model)
    return model, loading.load_processor(prepared.base.folder, pixel_range)


def freeze_first_blocks(model: Qwen2VLForConditionalGeneration) -> None:
    """Exclude the patch embedding and the first third of the vision blocks from training.

    Edges and strokes are the same in all captchas, and a step without their gradients is a fifth
    shorter.
    """
    visual = model.model.visual
    visual.patch_embed.requires_grad_(False)
    for block in visual.blocks[: len(visual.blocks) // 3]:
        block.requires_grad_(False)


def _material(prepared: _Prepared, processor: Qwen2VLProcessor) -> Material:
    views = _prepared_views(prepared, processor)
    own, rehearsal = prepared.own, prepared.rehearsal
    return Material(
        own=Examples(own.learnt, views),
        own_held_out=Examples(own.held_out, views).batches(_BATCH_SIZE),
        rehearsal=Examples(rehearsal.learnt, views) if rehearsal.learnt else None,
        rehearsal_held_out=Examples(rehearsal.held_out, views).batches(_BATCH_SIZE),
    )


def _prepared_views(prepared: _Prepared, processor: Qwen2VLProcessor) -> list[PreparedView]:
    """Return the views in which the base reads, the one at its full size first."""
    capabilities = prepared.plan.capabilities
    config = processor_config(processor)
    preprocessor = Preprocessor(config)
    full = View(capabilities.stretch)
    views = prepared.base.facts.views
    others = [view for view in views.views if view != full] if views else []
    return [
        PreparedView(
            partial(image_shown, capabilities=replace(capabilities, stretch=view.stretch)),
            partial(preprocessor.size_shown, pixel_range=view.pixel_range),
            (view.pixel_range or config.pixel_range)[1],
        )
        for view in (full, *others)
    ]


def _read_held_out(reader: CheckpointReader, own: _Split, rehearsal: _Split) -> _Results:
    return _Results(
        _outcomes(reader, own.held_out, "reading"), _outcomes(reader, rehearsal.held_out, "reading")
    )


def _outcomes(reader: CheckpointReader, examples: Sequence[Example], title: str) -> list[Outcome]:
    readings = reader.read([example.picture for example in examples], title)
    return outcomes_of([example.text for example in examples], readings, reader.plan)


def _read_changed(
    reader: CheckpointReader, examples: Sequence[Example], copies: int
) -> list[Outcome]:
    """Read each example in several changed copies: how sure the model is varies among them."""
    rng = random.Random(0)
    changed = [
        replace(example, picture=augment(example.picture, rng))
        for example in examples
        for _ in range(copies)
    ]
    return _outcomes(reader, changed, "calibrating")


def _score(outcomes: Sequence[Outcome], images: int) -> Score:
    return Score(sum(outcome.right for outcome in outcomes), images)


def _line(test: HeldOutScore, minutes: float) -> str:
    """Return a line of progress."""
    left = round(60 * minutes * (1 - test.share))
    return (
        f"{left // 60}:{left % 60:02} left  step {test.steps:4}  "
        f"held out {test.right:.2f} right, loss {test.loss:.3f}  "
        f"others {test.rehearsal_right:.2f}, loss {test.rehearsal_loss:.3f}"
    )
