from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from evaluation.load import machine


def make_process(
    proc: Path, pid: int, parent: int, peak_kib: int | None, name: str = "python"
) -> None:
    lines = [f"Name:\t{name}", f"Pid:\t{pid}", f"PPid:\t{parent}"]
    if peak_kib is not None:
        lines += [f"VmHWM:\t {peak_kib} kB", f"VmRSS:\t {peak_kib // 2} kB"]
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "status").write_text("\n".join(lines) + "\n")


def test_memory_sums_the_process_and_all_its_descendants(tmp_path: Path) -> None:
    make_process(tmp_path, 1, 0, 7_000, "init")
    make_process(tmp_path, 100, 1, 1_000)
    make_process(tmp_path, 101, 100, 200)
    make_process(tmp_path, 50, 101, 30)  # A grandchild whose number is below its parent's.
    make_process(tmp_path, 102, 100, None)  # Ended, not yet collected: it has no memory.
    make_process(tmp_path, 200, 1, 5_000, "other: PPid:\t100")
    assert machine.peak_resident_bytes(100, tmp_path) == 1_230 * 1024
    assert machine.resident_bytes(100, tmp_path) == 615 * 1024


@pytest.mark.parametrize("processes", [[], [(5, 1, 10)]], ids=["no-proc", "process-is-gone"])
def test_memory_is_unknown_without_the_process(
    tmp_path: Path, processes: list[tuple[int, int, int]]
) -> None:
    for pid, parent, peak in processes:
        make_process(tmp_path, pid, parent, peak)
    assert machine.peak_resident_bytes(100, tmp_path) is None
    assert machine.resident_bytes(100, tmp_path) is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(
            "processor : 0\nmodel name\t: AMD EPYC 9\nmodel name : B\n", "AMD EPYC 9", id="x86"
        ),
        pytest.param("processor : 0\nCPU part : 0xd0c\n", "from the platform", id="no-name"),
        pytest.param(None, "from the platform", id="no-proc"),
    ],
)
def test_cpu_model(
    tmp_path: Path, content: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.platform, "processor", lambda: "from the platform")
    if content is not None:
        (tmp_path / "cpuinfo").write_text(content)
    assert machine.cpu_model(tmp_path) == expected


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.live
def test_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert machine.commit_of(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert machine.commit_of(tmp_path) is None
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert machine.commit_of(tmp_path) == head[:10]
    (tmp_path / "file").write_text("two")
    assert machine.commit_of(tmp_path) == f"{head[:10]}+"


def test_this_machine_is_described() -> None:
    described = machine.describe_machine(threads=3)
    assert described.threads == 3
    assert described.cores >= 1
    assert {"python", "torch", "transformers"} <= described.versions.keys()
    assert all(described.versions.values())
