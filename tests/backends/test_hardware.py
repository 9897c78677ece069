from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from qwen_captcha.backends import hardware

MIB = 1024 * 1024


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    return folder


@pytest.fixture
def cgroups(tmp_path: Path) -> Path:
    folder = tmp_path / "cgroup"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({}, "", 8),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 8),
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "250000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "50000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "1600000 100000\n"}, "0::/\n", 8),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, "0::/a/b\n", 3),
        (
            {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            "4:cpu,cpuacct:/\n",
            4,
        ),
        (
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            "4:cpu,cpuacct:/\n",
            8,
        ),
        ({"cpu.max": "nonsense\n"}, "0::/\n", 8),
    ],
    ids=[
        "no groups",
        "no quota",
        "two cores",
        "two and a half",
        "half a core",
        "more than there are",
        "a quota further out",
        "version 1",
        "version 1 without quota",
        "nonsense",
    ],
)
def test_cores_are_limited_by_the_quota(
    proc: Path, cgroups: Path, files: dict[str, str], membership: str, cores: int
) -> None:
    write(proc, {"self/cgroup": membership})
    write(cgroups, files)
    assert hardware.usable_cores(proc, cgroups) == cores


def test_cores_are_limited_by_the_affinity(
    proc: Path, cgroups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5}, raising=False)
    assert hardware.usable_cores(proc, cgroups) == 1


def test_cores_are_counted_where_there_is_no_affinity(
    proc: Path, cgroups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert hardware.usable_cores(proc, cgroups) == 6


@pytest.mark.parametrize(
    ("meminfo", "files", "available"),
    [
        ("", {}, None),
        ("MemTotal: 9 kB\nMemAvailable:  2048 kB\n", {}, 2 * MIB),
        ("MemAvailable: 9999999 kB\n", {"memory.max": "max\n", "memory.current": "5\n"}, "all"),
        (
            "MemAvailable: 9999999 kB\n",
            {
                "memory.max": f"{10 * MIB}\n",
                "memory.current": f"{8 * MIB}\n",
                "memory.stat": f"anon 1\ninactive_file {3 * MIB}\n",
            },
            5 * MIB,
        ),
        (
            "MemAvailable: 9999999 kB\n",
            {
                "memory/memory.limit_in_bytes": f"{10 * MIB}\n",
                "memory/memory.usage_in_bytes": f"{8 * MIB}\n",
            },
            2 * MIB,
        ),
        ("", {"memory.max": "10\n", "memory.current": "20\n"}, 0),
    ],
    ids=["unknown", "machine", "no limit", "container", "version 1", "over the limit"],
)
def test_free_memory_is_the_limit_less_the_used_memory(
    proc: Path, cgroups: Path, meminfo: str, files: dict[str, str], available: int | str | None
) -> None:
    write(proc, {"meminfo": meminfo, "self/cgroup": "0::/\n"})
    write(cgroups, files)
    expected = 9999999 * 1024 if available == "all" else available
    assert hardware.available_memory_bytes(proc, cgroups) == expected


def test_resident_memory_is_read(proc: Path) -> None:
    assert hardware.resident_memory_bytes(proc) is None
    write(proc, {"self/status": "Name:\tpython\nVmRSS:\t  1024 kB\n"})
    assert hardware.resident_memory_bytes(proc) == MIB


def test_processor_features_are_read(proc: Path) -> None:
    assert hardware.cpu_flags(proc) == frozenset()
    write(proc, {"cpuinfo": "processor\t: 0\nflags\t\t: fpu avx512_bf16\n"})
    assert hardware.cpu_flags(proc) == {"fpu", "avx512_bf16"}
    write(proc, {"cpuinfo": "processor\t: 0\nFeatures\t: fp asimddp\n"})
    assert hardware.cpu_flags(proc) == {"fp", "asimddp"}


class FakeNvml:
    """Stands in for NVIDIA's library."""

    def __init__(self, init: int, count_status: int, count: int) -> None:
        self._statuses = (init, count_status)
        self._count = count
        self.shut_down = False

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return self._statuses[0]

    def nvmlDeviceGetCount_v2(self, pointer: object) -> int:  # noqa: N802
        pointer._obj.value = self._count
        return self._statuses[1]

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut_down = True


@pytest.mark.parametrize(
    ("nvml", "count"),
    [(FakeNvml(0, 0, 2), 2), (FakeNvml(9, 0, 2), 0), (FakeNvml(0, 999, 2), 0)],
    ids=["two GPUs", "no driver", "an error"],
)
def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, count: int) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: nvml)
    assert hardware.count_gpus() == count
    assert nvml.shut_down == (nvml.nvmlInit_v2() == 0)


def test_without_the_library_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", not_found)
    assert hardware.count_gpus() == 0


def test_a_size_is_shown_with_the_digits_that_are_asked_for() -> None:
    assert hardware.in_gib(19_394_880, digits=2) == "0.02 GiB"
    assert hardware.in_gib(5 * hardware.GIB // 2) == "2.5 GiB"
    assert hardware.in_gib(None) == "an unknown amount"
