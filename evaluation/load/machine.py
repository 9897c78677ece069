"""Facts about the machine: processor, cores, versions, commit, and memory of processes.

A fact that the system does not provide is None.
"""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qwen_captcha.backends.hardware import usable_cores

PROC = Path("/proc")
KIB = 1024


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine of a measurement.

    Attributes:
        cpu: Model name of the processor.
        cores: Threads that can run at once, a container's quota included.
        threads: Threads that each model may use.
        system: Operating system and its release.
        versions: Python and the packages that matter for speed.
    """

    cpu: str | None
    cores: int
    threads: int
    system: str
    versions: dict[str, str]


def describe_machine(threads: int) -> Machine:
    """Return this machine's facts, for measurements with `threads` threads a model."""
    return Machine(
        cpu=cpu_model(),
        cores=usable_cores(),
        threads=threads,
        system=f"{platform.system()} {platform.release()}",
        versions={"python": platform.python_version()} | _versions("torch", "transformers"),
    )


def cpu_model(proc: Path = PROC) -> str | None:
    """Return the processor's name as the kernel reports it."""
    try:
        lines = (proc / "cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def commit_of(folder: Path) -> str | None:
    """Return the commit that is checked out, with `+` after it where files differ from it."""
    revision = _git(folder, "rev-parse", "--short=10", "HEAD")
    if not revision:
        return None
    return revision + ("+" if _git(folder, "status", "--porcelain") else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_resident_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Return the peak resident memory of a process and its descendants.

    This is an upper bound: shared pages are counted for each process, and peaks may be at different
    times. None without /proc.
    """
    return _summed(pid, "VmHWM", proc)


def resident_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Return the resident memory of a process and its descendants, None where it is unknown."""
    return _summed(pid, "VmRSS", proc)


def _summed(pid: int, field: str, proc: Path) -> int | None:
    """Return the sum of a field over a process and its running descendants, in bytes."""
    statuses = _statuses(proc)
    family = {pid}
    # A child's number may be below its parent's, so repeat until no new one is found.
    while children := {p for p, s in statuses.items() if _number(s, "PPid") in family} - family:
        family |= children
    sizes = [_number(statuses[p], field) for p in family if p in statuses]
    known = [size for size in sizes if size is not None]
    return sum(known) * KIB if known else None


def _statuses(proc: Path) -> dict[int, dict[str, str]]:
    """Return the `status` file of each running process as name -> value."""
    statuses = {}
    for path in proc.glob("[0-9]*/status"):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:  # The process ended in between.
            continue
        statuses[int(path.parent.name)] = dict(_split(line) for line in lines)
    return statuses


def _split(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()


def _number(status: dict[str, str], name: str) -> int | None:
    """Return the number at the start of a field: a process number, or KiB."""
    value = status.get(name, "").split(" ")[0]
    return int(value) if value.isdigit() else None
