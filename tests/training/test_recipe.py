"""The recipe runs its phases in order, each from the one before, and goes on after a stop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT
from training.recipe import Phase, make

pytestmark = pytest.mark.live

PHASES = (
    Phase("one", 10, 0, 1e-3, 0.3, 0.0, 4),
    Phase("two", 20, 6, 5e-4, 0.5, 0.6, 6),
    Phase("three", 10, 5, 5e-4, 0.5, 0.4, 6, hardest=True),
)


class Runner:
    """Records the commands that are run, and fails at a given one."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.commands: list[list[str]] = []
        self.fails_at = fails_at

    def __call__(self, command: Sequence[str]) -> None:
        if len(self.commands) == self.fails_at:
            raise subprocess.CalledProcessError(1, ["python", "-m", *command])
        self.commands.append(list(command))

    def modules(self) -> list[str]:
        return [command[0] for command in self.commands]

    def option(self, index: int, name: str) -> str:
        command = self.commands[index]
        return command[command.index(name) + 1]


def test_each_phase_begins_with_the_checkpoint_before(tmp_path: Path) -> None:
    run = Runner()
    finished = make(tmp_path, [Path("drawn")], begin="nothing", phases=PHASES, run=run)
    assert run.modules() == [
        "training.train",
        "training.grow",
        "training.train",
        "training.train",
        "training.average",
        "training.calibrate",
        "training.rehearsal",
    ]
    assert "--init" not in run.commands[0]
    assert "--real" not in run.commands[0]
    assert run.commands[1][1:] == [
        *(str(tmp_path / "one/checkpoint"), str(tmp_path / "two-start"), "--depth", "6"),
    ]
    assert run.option(2, "--init") == str(tmp_path / "two-start")
    assert run.option(2, "--real") == "drawn"
    assert "--hardest" not in run.commands[2]
    assert run.option(3, "--init") == str(tmp_path / "two-start")
    assert run.option(3, "--last-level") == "5"
    assert "--hardest" in run.commands[3]
    parts = ("checkpoint", "two-start", "two/checkpoint", "three/checkpoint")
    assert run.commands[4][1:5] == [str(tmp_path / name) for name in parts]
    assert finished == tmp_path / "checkpoint"
    assert json.loads((tmp_path / "recipe.json").read_text())["done"] == ["one", "two", "three"]


def test_the_last_phases_begin_with_landed_weights(tmp_path: Path) -> None:
    run = Runner()
    make(tmp_path, [Path("drawn")], begin="landed", scale=0.1, phases=PHASES, run=run)
    assert run.commands[0][:2] == ["training.grow", str(BUNDLED_CHECKPOINT)]
    assert [run.option(index, "--minutes") for index in (1, 2)] == ["2", "1"]
    assert [run.option(index, "--init") for index in (1, 2)] == [str(tmp_path / "two-start")] * 2
    assert run.modules().count("training.train") == 2


def test_an_interrupted_recipe_resumes(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        make(tmp_path, [Path("d")], begin="nothing", phases=PHASES, run=Runner(fails_at=2))
    (tmp_path / "two").mkdir()
    (tmp_path / "two/state.pt").touch()
    run = Runner()
    make(tmp_path, [Path("d")], begin="nothing", phases=PHASES, run=run)
    assert run.modules().count("training.train") == 2
    assert run.option(1, "--out") == str(tmp_path / "two")
    assert "--resume" in run.commands[1]
