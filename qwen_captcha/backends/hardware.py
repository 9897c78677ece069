"""The hardware available to this process: cores, memory, processor features, GPUs.

The limits of a container are included. Nothing here needs torch or starts CUDA, because a process
that has started CUDA cannot fork. Facts that the system does not provide are None or zero.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
KIB = 1024
GIB = 1024**3

_NVML_LIBRARIES = ("libnvidia-ml.so.1", "nvml.dll")
# Folders of a control group's files: version 2 has one tree, version 1 one for each resource.
_MEMORY_TREES = ("", "memory")
_CPU_TREES = ("", "cpu", "cpu,cpuacct")
_MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")
_MEMORY_USAGES = ("memory.current", "memory.usage_in_bytes")


def in_gib(size: int | None, digits: int = 1) -> str:
    """Return a number of bytes for a message, in GiB with some digits after the point."""
    return "an unknown amount" if size is None else f"{size / GIB:.{digits}f} GiB"


def usable_cores(proc: Path = PROC, cgroups: Path = CGROUPS) -> int:
    """Return the number of usable cores, at least 1, by affinity and container quota."""
    cores = _allowed_cores()
    for folder in _control_groups(_CPU_TREES, proc, cgroups):
        quota = _cpu_quota(folder)
        if quota is not None:
            cores = min(cores, max(1, int(quota)))
    return cores


def available_memory_bytes(proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Return the bytes of memory available to this process, None where it is unknown."""
    amounts = [
        amount
        for folder in _control_groups(_MEMORY_TREES, proc, cgroups)
        if (amount := _free_in_cgroup(folder)) is not None
    ]
    machine = _kib_field(proc / "meminfo", "MemAvailable")
    if machine is not None:
        amounts.append(machine)
    return min(amounts, default=None)


def resident_memory_bytes(proc: Path = PROC) -> int | None:
    """Return the bytes of memory of this process, None where it is unknown."""
    return _kib_field(proc / "self" / "status", "VmRSS")


def cpu_flags(proc: Path = PROC) -> frozenset[str]:
    """Return the processor's features as Linux names them, such as `avx512_bf16`."""
    for line in _lines(proc / "cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):  # on x86, on ARM
            return frozenset(value.split())
    return frozenset()


def count_gpus() -> int:
    """Return the number of NVIDIA GPUs that the driver lists, used or not."""
    for name in _NVML_LIBRARIES:
        try:
            nvml = ctypes.CDLL(name)
        except OSError:
            continue
        return _count_nvml_devices(nvml)
    return 0


def _count_nvml_devices(nvml: ctypes.CDLL) -> int:
    """Ask NVIDIA's management library, which unlike CUDA survives a fork."""
    count = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() != 0:
        return 0
    try:
        return count.value if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 else 0
    finally:
        nvml.nvmlShutdown()


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _control_groups(trees: tuple[str, ...], proc: Path, cgroups: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those around them."""
    paths = {Path("/")}
    for line in _lines(proc / "self" / "cgroup"):
        path = Path(line.split(":", 2)[-1])
        paths.update([path, *path.parents])
    for tree in trees:
        for path in paths:
            folder = cgroups / tree / path.relative_to("/")
            if folder.is_dir():
                yield folder


def _cpu_quota(folder: Path) -> float | None:
    """Return a group's quota in cores, None where it has none."""
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota = _text(folder / "cpu.cfs_quota_us")
        period = _text(folder / "cpu.cfs_period_us")
    # "max" and "-1" mean no quota.
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):
        return None
    return int(quota) / int(period)


def _free_in_cgroup(folder: Path) -> int | None:
    """Return the bytes that a group may still allocate, None where it has no limit."""
    for limit_name, usage_name in zip(_MEMORY_LIMITS, _MEMORY_USAGES, strict=True):
        limit, usage = _text(folder / limit_name), _text(folder / usage_name)
        if limit.isdigit() and usage.isdigit():
            return max(0, int(limit) - int(usage) + _reclaimable(folder))
    return None


def _reclaimable(folder: Path) -> int:
    """Return the bytes of a group's usage that are reclaimable file cache."""
    for line in _lines(folder / "memory.stat"):
        key, _, value = line.partition(" ")
        if key in ("inactive_file", "total_inactive_file") and value.isdigit():
            return int(value)
    return 0


def _kib_field(path: Path, field: str) -> int | None:
    """Return the value of a line `field:  123 kB` of a file in /proc, in bytes."""
    for line in _lines(path):
        key, _, value = line.partition(":")
        if key == field:
            return int(value.split()[0]) * KIB
    return None


def _text(path: Path) -> str:
    return "".join(_lines(path)[:1]).strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
