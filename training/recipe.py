"""Make the bundled checkpoint: every phase as data, from nothing or from weights there are.

A phase is one run of `training.train`. Each goes on from the checkpoint of the one before, and a
run that was interrupted goes on from its state when the command is given again. The last two begin
with the same weights: one on everything, one on what is hardest. The mean of their start and their
ends is written. Its confidence is calibrated, and the rehearsal set that `qwen-captcha fit` needs
is made.

Draw images of real generators first: `python -m training.generators runs/drawn`.

Run:
    python -m training.recipe runs/recipe --real runs/drawn           # from nothing
    python -m training.recipe runs/recipe --real runs/drawn --begin landed
    python -m training.recipe runs/try --real runs/drawn --scale 0.01  # a hundredth of the time
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT


@dataclass(frozen=True, slots=True)
class Phase:
    """One run of `training.train`.

    Attributes:
        name: Of its folder.
        minutes: Of one CPU thread.
        level: Of the curriculum, where it starts.
        learning_rate: Its peak.
        decay: Last share of the time, over which the rate falls to nothing.
        real_share: Share of real generators' captchas in a batch.
        depth: Vision blocks; new ones start as the identity.
        hardest: A run on Chinese characters, level 5 alone, and on the families that are misread
            most. It begins where the phase before began.
    """

    name: str
    minutes: float
    level: int
    learning_rate: float
    decay: float
    real_share: float
    depth: int
    hardest: bool = False


# From nothing, letters come first: with Chinese characters or real generators in the first hours
# the loss of what is hardest is half of all and does not fall.
PHASES = (
    Phase("letters", 240, 0, 1.5e-3, 0.3, 0.0, 4),
    Phase("chinese", 100, 5, 1e-3, 0.5, 0.1, 4),
    Phase("generators", 80, 6, 8e-4, 0.5, 0.6, 4),
    Phase("deeper", 240, 6, 8e-4, 0.85, 0.55, 6),
    Phase("scales", 100, 6, 5e-4, 0.9, 0.55, 6),
    Phase("hardest", 60, 5, 5e-4, 0.9, 0.4, 6, hardest=True),
)
SHARES = (0.2, 0.5, 0.3)  # of the last two phases' start and of their ends in the mean

Run = Callable[[Sequence[str]], None]


def run_module(command: Sequence[str]) -> None:
    """Run a module of the project; its output goes where this one's does.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run([sys.executable, "-m", *command], check=True)


def make(
    out: Path,
    real: Sequence[Path],
    *,
    begin: str,
    scale: float = 1.0,
    phases: Sequence[Phase] = PHASES,
    run: Run = run_module,
) -> Path:
    """Run the phases that are not done yet; return the folder of the finished checkpoint.

    Args:
        out: Folder of the recipe; one folder a phase and `recipe.json`, which lists what is done.
        real: Folders of archives of real generators' captchas.
        begin: `nothing`, or `landed` for the last two phases from the bundled checkpoint.
        scale: Share of each phase's time.
        phases: What to run.
        run: Runs a module with arguments.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = out / "recipe.json"
    done: list[str] = json.loads(record.read_text())["done"] if record.is_file() else []
    start: Path | None = None
    latest = BUNDLED_CHECKPOINT if begin == "landed" else None
    for phase in phases[-2:] if begin == "landed" else phases:
        folder = out / phase.name
        if latest is not None and not phase.hardest:
            start = out / f"{phase.name}-start"
            if phase.name not in done:
                run(["training.grow", str(latest), str(start), "--depth", str(phase.depth)])
        if phase.name not in done:
            run(_training(phase, folder, start, real, scale))
            done.append(phase.name)
            _write(record, {"done": done, "phases": [asdict(one) for one in phases]})
        latest = folder / "checkpoint"
    finished = out / "checkpoint"
    ends = [out / phase.name / "checkpoint" for phase in phases[-2:]]
    averaged = [str(folder) for folder in (start, *ends)]
    run(["training.average", str(finished), *averaged, "--shares", *map(str, SHARES)])
    folders = [part for path in real for part in ("--real", str(path))]
    run(["training.calibrate", str(finished), *folders])
    run(["training.rehearsal", str(finished), *folders])
    return finished


def _training(
    phase: Phase, folder: Path, start: Path | None, real: Sequence[Path], scale: float
) -> list[str]:
    """Return the arguments of one phase's run, which goes on where it was interrupted."""
    arguments = {
        "--out": str(folder),
        "--minutes": f"{phase.minutes * scale:g}",
        "--level": str(phase.level),
        "--learning-rate": f"{phase.learning_rate:g}",
        "--decay": f"{phase.decay:g}",
        "--real-share": f"{phase.real_share:g}",
        "--depth": str(phase.depth),
    }
    command = ["training.train", *(part for pair in arguments.items() for part in pair)]
    if phase.real_share:
        command += [part for path in real for part in ("--real", str(path))]
    if phase.hardest:
        command += ["--hardest", "--last-level", str(phase.level)]
    if start is not None:
        command += ["--init", str(start)]
    if (folder / "state.pt").is_file():
        command.append("--resume")
    return command


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of the recipe's runs")
    parser.add_argument(
        "--real", type=Path, action="append", required=True, help="folder of archives; repeatable"
    )
    parser.add_argument(
        "--begin", choices=("nothing", "landed"), default="nothing", help="weights to begin with"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of each phase's time (1)")
    arguments = parser.parse_args()
    try:
        finished = make(arguments.out, arguments.real, begin=arguments.begin, scale=arguments.scale)
    except subprocess.CalledProcessError as error:
        parser.exit(1, f"{error.cmd[2]} failed; give the same command again to go on.\n")
    print(f"wrote {finished}")


if __name__ == "__main__":
    main()
