from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from evaluation.scaling import inside, one_core_group


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (["cpu/cpu.cfs_quota_us"], {"cpu.cfs_quota_us": "100000", "cpu.cfs_period_us": "100000"}),
        ([], {"cpu.max": "100000 100000"}),
    ],
    ids=["version 1", "version 2"],
)
def test_the_group_has_one_core_and_is_gone_afterwards(
    tmp_path: Path, given: list[str], written: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in given:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    # The kernel's files vanish with their folder.
    monkeypatch.setattr(Path, "rmdir", lambda path: os.rename(path, tmp_path / "gone"))
    with one_core_group(tmp_path) as group:
        assert {path.name: path.read_text() for path in group.iterdir()} == written
    assert not group.exists()


@pytest.mark.live
def test_a_command_runs_in_the_group(tmp_path: Path) -> None:
    done = subprocess.run(
        inside(tmp_path, ("echo", "two words")), capture_output=True, text=True, check=True
    )
    assert done.stdout == "two words\n"
    assert (tmp_path / "cgroup.procs").read_text().strip().isdigit()
