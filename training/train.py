r"""Train the bundled checkpoint, or go on from one.

A minute on a CPU, to see it work:   python -m training.train --out runs/smoke --minutes 1
From landed weights, one CPU thread: python -m training.train --out runs/next --minutes 120 \
    --level 6 --init qwen_captcha/checkpoints/qwen2-vl-captcha-mini --real FOLDER
An interrupted run goes on with:     python -m training.train --out runs/next --minutes 120 --resume

The learning rate falls over the last `--decay` share of the time given. `--out` always holds a
complete state (`state.pt`), a log (`log.jsonl`) and, at the end, a checkpoint folder
(`checkpoint`).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import time
from dataclasses import asdict
from itertools import islice
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration

from qwen_captcha.fitting.learning.optimizers import Optimizers
from qwen_captcha.fitting.learning.vision import compiled_block, run_block
from qwen_captcha.fitting.trainer import fast_bf16
from training.build import (
    AUXILIARY_HEADS,
    build_config,
    build_model,
    build_processor,
    save_checkpoint,
    whiten_patch_embedding,
)
from training.learning.curriculum import LEVELS
from training.learning.dataset import Batch, CaptchaStream, Mix, open_loader
from training.learning.objective import Objective, to_patches
from training.learning.progress import Progress, Recent
from training.learning.real_captchas import RealCaptchas, is_archive, read_archives
from training.rendering.fonts import FONT_ROOT, FontLibrary, FontsMissingError
from training.validate import rendered, validate

_GLYPH_WEIGHT = 0.5
_ORDER_WEIGHT = 0.3
_COLUMN_WEIGHT = 0.3
_MISS_MEMORY = 0.98  # of a family's misread share, from one of its images to the next
_UNAIDED_SHARE = 0.3
_EXCLUDED_SHARE = 0.1
_EMA_DECAY = 0.998
_WARM_UP_STEPS = 100
_SAVE_EVERY_S = 120.0
_REPORT_EVERY_S = 15.0


class Trainer:
    """One run: model, optimiser, averaged weights and progress."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = build_processor()
        self.fonts = FontLibrary.open(root=arguments.fonts)
        self.model = self._initial_model().to(self.device)
        if self.device.type == "cpu":  # the fused kernel's backward pass is slower there
            self.model.set_attn_implementation({"text_config": "eager"})
        self.objective = Objective(
            self.model,
            self.processor.tokenizer,
            compiled_block() if arguments.compile else run_block,
            _UNAIDED_SHARE,
            _EXCLUDED_SHARE,
        )
        if arguments.init is not None and (arguments.init / AUXILIARY_HEADS).is_file():
            self.objective.load_heads(load_file(arguments.init / AUXILIARY_HEADS))
        self.objective.to(self.device).train()  # loaded weights come as for inference
        self.average = {
            name: value.detach().clone() for name, value in self.model.named_parameters()
        }
        self.optimizers = Optimizers(self.objective, bf16=arguments.bf16)
        self.progress = Progress(level=arguments.level)
        self.recent = Recent()
        self.out: Path = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        if arguments.resume:
            self._load_state()
        self.shared_level: Synchronized[int] = multiprocessing.Value("i", self.progress.level)
        self.mix = self._open_mix()

    def _initial_model(self) -> Qwen2VLForConditionalGeneration:
        if self.arguments.init is None:
            model = build_model(build_config(depth=self.arguments.depth), self.arguments.seed)
            if not self.arguments.resume:  # a resumed state brings all weights
                whiten_patch_embedding(model, self._sample_patches())
            return model
        return Qwen2VLForConditionalGeneration.from_pretrained(
            self.arguments.init, dtype=torch.float32
        )

    def _sample_patches(self) -> torch.Tensor:
        """Return patches of freshly drawn whole captchas, (N, C * 14 * 14)."""
        last: Synchronized[int] = multiprocessing.Value("i", len(LEVELS) - 1)
        stream = CaptchaStream(
            LEVELS, last, Mix(), self.fonts, seed=self.arguments.seed, start=-1, batch_size=16
        )
        batches = islice(stream, 16)
        return torch.cat([to_patches(batch.images).flatten(0, 1) for batch in batches])

    def _open_mix(self) -> Mix:
        """Return the real captchas to train on; families not met before as if half misread."""
        folders: list[Path] = self.arguments.real
        if not folders:
            return Mix()
        paths = sorted(path for folder in folders for path in folder.iterdir() if is_archive(path))
        real = RealCaptchas(read_archives(paths, held_out=False))
        record = self.out / "misses.json"
        met = json.loads(record.read_text()) if self.arguments.resume and record.is_file() else {}
        misses = multiprocessing.Array("d", [met.get(name, 0.5) for name in real.families])
        return Mix(real, self.arguments.real_share, misses, self.arguments.hardest)

    def _load_state(self) -> None:
        state = torch.load(self.out / "state.pt", map_location=self.device, weights_only=True)
        self.objective.load_state_dict(state["objective"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.average = state["average"]
        self.progress = Progress(**state["progress"])

    def save(self) -> None:
        """Write the state; a crash while writing leaves the previous one."""
        partial = self.out / "state.pt.partial"
        torch.save(
            {
                "objective": self.objective.state_dict(),
                "optimizers": self.optimizers.state_dict(),
                "average": self.average,
                "progress": asdict(self.progress),
            },
            partial,
        )
        os.replace(partial, self.out / "state.pt")
        if self.mix.real is not None and self.mix.misses is not None:
            misses = dict(zip(self.mix.real.families, self.mix.misses[:], strict=True))
            shown = {name: round(miss, 3) for name, miss in misses.items()}
            (self.out / "misses.json").write_text(json.dumps(shown, indent=1) + "\n")

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a checkpoint, and the auxiliary heads for the next run."""
        exported = Qwen2VLForConditionalGeneration(self.model.config)
        exported.generation_config = self.model.generation_config
        exported.load_state_dict(
            {name: value.cpu() for name, value in self.average.items()}, strict=False
        )
        exported.tie_weights()
        save_checkpoint(exported, self.processor, folder)
        heads = {name: value.half().cpu() for name, value in self.objective.heads().items()}
        save_file(heads, folder / AUXILIARY_HEADS)

    def _learning_rate(self) -> float:
        peak = float(self.arguments.learning_rate)
        done = self.progress.seconds / (60 * self.arguments.minutes)
        decay = self.arguments.decay
        cooling = max(0.0, (done - (1 - decay)) / decay) if decay else 0.0
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, cooling)))
        return peak * min(1.0, (self.progress.steps + 1) / _WARM_UP_STEPS) * max(0.01, falling)

    def step(self, batch: Batch) -> None:
        """Learn from one batch."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.arguments.bf16):
            outcome = self.objective(batch)
            loss = (
                outcome.token_loss
                + _GLYPH_WEIGHT * outcome.glyph_loss
                + _ORDER_WEIGHT * outcome.order_loss
                + _COLUMN_WEIGHT * outcome.column_loss
            )
        self.optimizers.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizers.step(self._learning_rate())
        self._average_weights()
        self.progress.steps += 1
        self.progress.images += len(batch.labels)
        self.recent.add(batch, outcome, self.progress.level)
        self._count_misses(batch, outcome.caseless.tolist())
        self._step_up()

    def _count_misses(self, batch: Batch, hits: list[bool]) -> None:
        """Send the accuracy of each real family to the workers."""
        if self.mix.real is None or self.mix.misses is None:
            return
        for family, hit in zip(batch.families, hits, strict=True):
            if family:
                place = self.mix.real.families.index(family)
                before = self.mix.misses[place]
                self.mix.misses[place] = before + (1 - _MISS_MEMORY) * ((not hit) - before)

    @torch.no_grad()
    def _average_weights(self) -> None:
        decay = min(_EMA_DECAY, (1 + self.progress.steps) / (10 + self.progress.steps))
        live = [value.detach() for _, value in self.model.named_parameters()]
        torch._foreach_lerp_(list(self.average.values()), live, 1 - decay)

    def _step_up(self) -> None:
        hits = self.recent.level_hits
        last = self.progress.level >= self.arguments.last_level
        if last or len(hits) < (hits.maxlen or 0):
            return
        if sum(hits) / len(hits) > LEVELS[self.progress.level].step_up_at:
            self.progress.level += 1
            self.shared_level.value = self.progress.level
            hits.clear()
            self._report("step up")

    def _report(self, event: str = "train") -> None:
        summary = self.recent.summary()
        left = max(0.0, 60 * self.arguments.minutes - self.progress.seconds)
        rate = self.progress.images / max(1e-9, self.progress.seconds)
        row = {"event": event, **asdict(self.progress), "rate": rate, **summary}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({key: _rounded(value) for key, value in row.items()}) + "\n")
        figures = "  ".join(f"{name} {value:.3f}" for name, value in summary.items())
        print(
            f"{event}: step {self.progress.steps}  level {self.progress.level}  "
            f"images {self.progress.images}  {rate:.0f}/s  {figures}  "
            f"lr {self._learning_rate():.1e}  left {left / 60:.1f} min",
            flush=True,
        )

    def run(self) -> None:
        """Train until the time is used up, then write state and checkpoint."""
        stream = CaptchaStream(
            LEVELS,
            self.shared_level,
            self.mix,
            self.fonts,
            seed=self.arguments.seed,
            start=self.progress.steps,
            batch_size=self.arguments.batch_size,
        )
        last = reported = saved = time.monotonic()
        for batch in open_loader(stream, self.arguments.workers):
            while (self.out / "pause").exists():  # while something else is measured
                time.sleep(1)
                last = time.monotonic()
            self.step(batch)
            now = time.monotonic()
            self.progress.seconds += now - last
            last = now
            if now - reported > _REPORT_EVERY_S:
                self._report()
                reported = now
            if now - saved > _SAVE_EVERY_S:
                self.save()
                saved = now
            if self.progress.seconds >= 60 * self.arguments.minutes:
                break
        self._report("done")
        self.save()
        folder = self.out / "checkpoint"
        self.export(folder)
        self._describe(folder)

    def _describe(self, folder: Path) -> None:
        """Write how the checkpoint came about and what it reads to `training.json` in it."""
        model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        objective = Objective(model, self.processor.tokenizer).to(self.device).eval()
        description: dict[str, object] = {
            "arguments": described(self.arguments),
            "progress": asdict(self.progress),
            "recent": self.recent.summary(),
        }
        try:
            held_out = FontLibrary.open(held_out=True, root=self.arguments.fonts)
        except FontsMissingError:  # a machine that has the typefaces of training alone
            pass
        else:
            description["held_out_fonts"] = validate(objective, rendered(500, held_out))
        text = json.dumps(description, indent=2) + "\n"
        (folder / "training.json").write_text(text, encoding="utf-8")
        print(text)


def described(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the arguments as text; of a path the name, as its folders are of one machine."""
    return {name: _text_of(value) for name, value in vars(arguments).items()}


def _text_of(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(_text_of, value))
    return value.name if isinstance(value, Path) else str(value)


def _rounded(value: object) -> object:
    return round(value, 4) if isinstance(value, float) else value


def parse_arguments() -> argparse.Namespace:
    """Return the command line's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--minutes", type=float, required=True, help="training time in all")
    parser.add_argument("--init", type=Path, help="checkpoint folder to start from")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/state.pt")
    parser.add_argument("--depth", type=int, default=6, help="vision blocks of a new model (6)")
    parser.add_argument(
        "--fonts", type=Path, default=FONT_ROOT, help=f"folder of the typefaces ({FONT_ROOT})"
    )
    parser.add_argument("--level", type=int, default=0, help="level of the curriculum to start at")
    parser.add_argument(
        "--last-level", type=int, default=len(LEVELS) - 1, help="level to stay at (the last)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.3, help="last share of the time")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=shutil.which("c++") is not None,
        help="compile the vision blocks (default: where there is a C++ compiler)",
    )
    parser.add_argument(
        "--bf16",
        action=argparse.BooleanOptionalAction,
        default=fast_bf16(),
        help="bf16 autocast (default: where the processor or GPU has the instructions)",
    )
    parser.add_argument(
        "--real",
        type=Path,
        action="append",
        default=[],
        help="folder of archives of real generators' captchas; may be given again",
    )
    parser.add_argument(
        "--real-share", type=float, default=0.5, help="share of real captchas in a batch (0.5)"
    )
    parser.add_argument(
        "--hardest", action="store_true", help="mostly real families that are misread most"
    )
    parser.add_argument("--workers", type=int, default=1, help="rendering processes")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    return parser.parse_args()


def main() -> None:
    """Run from the command line."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    Trainer(arguments).run()


if __name__ == "__main__":
    main()
