"""What a training run writes beside its weights."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from training.train import described

pytestmark = pytest.mark.live


def test_arguments_are_described_without_the_folders_of_a_machine() -> None:
    folders = [Path("/home/a/generators"), Path("runs/drawn")]
    arguments = Namespace(out=Path("/home/a/next"), init=None, real=folders, minutes=9.5)
    assert described(arguments) == {
        "out": "next",
        "init": "None",
        "real": "generators drawn",
        "minutes": "9.5",
    }
