"""The plan and the results of one speed run, as data and as text.

The text shows only data of the JSON file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from evaluation.accuracy.table import ABSENT
from evaluation.load.machine import Machine
from evaluation.load.speed import Way, render_ways

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a measurement.

    Attributes:
        model: Value of `QWEN_MODEL`: `bundled`, a folder or a hub name.
        images: Images that each way reads in a round.
        rounds: Number of measurements of each way.
        threads: Threads that each model may use.
        backend: Value of `QWEN_BACKEND`.
        against: Further readers of the same images: `ddddocr`, both of its models in this process;
            `torch`, a service with that backend.
    """

    model: str
    images: int
    rounds: int
    threads: int
    backend: str = "auto"
    against: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SingleImageTimes:
    """One captcha at a time, read in turns by the service over HTTP and by a competitor.

    Attributes:
        competitor: Name of the competitor, and of its way.
        ours_s: Median seconds of one `/ocr`.
        theirs_s: Median seconds of one call.
    """

    competitor: str
    ours_s: float
    theirs_s: float


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The measurements of one run.

    Attributes:
        machine: The machine of the measurement.
        commit: The measured commit, with `+` after it if files differ from it.
        plan: The plan of the measurement.
        backend: The backend of the service.
        device: `cpu` or `cuda`, of the service and of plain `generate`.
        precision: Number type of the weights of plain `generate`.
        ways: Plain `generate`, then the ways of the service and the competitors.
        single_times: The times of one captcha, with each competitor.
        agreement: Way -> share of images with the same text as plain `generate`.
        start_to_ready_s: Seconds from process start to the first 200 of `/health`, of each start.
        peak_resident_bytes: Peak memory of the service's processes, None where unknown.
        cached_reply_s: Median seconds of a repeated `/ocr` image.
        health_s: Median seconds of `/health`, measured in turns with it.
    """

    machine: Machine
    commit: str | None
    plan: Plan
    backend: str
    device: str
    precision: str
    ways: Sequence[Way]
    single_times: Sequence[SingleImageTimes]
    agreement: Mapping[str, float]
    start_to_ready_s: Sequence[float]
    peak_resident_bytes: int | None
    cached_reply_s: float
    health_s: float


def render_report(report: BenchReport) -> str:
    """Return the report as text: machine, table of ways, other figures."""
    before = [
        ["machine", _machine_line(report.machine)],
        ["commit", report.commit or ABSENT],
        [
            "model",
            f"{report.plan.model}, run by {report.backend} on {report.device}; plain generate in "
            f"{report.precision}",
        ],
        [
            "images",
            f"{report.plan.images} a round, {_count(report.plan.rounds, 'round')}, cache off",
        ],
    ]
    after = [
        *(["one captcha", _single_line(times)] for times in report.single_times),
        ["same text", _agreement_line(report.agreement)],
        ["start to ready", f"{median(report.start_to_ready_s):.1f} s"],
        ["peak memory", _memory(report.peak_resident_bytes)],
        ["cached reply", _cached_line(report.cached_reply_s, report.health_s)],
    ]
    return "\n".join([*_pairs(before), "", render_ways(report.ways), "", *_pairs(after)])


def _pairs(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return one line for each row: name and value, left-aligned."""
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def _machine_line(machine: Machine) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in machine.versions.items())
    return (
        f"{machine.cpu or 'unknown processor'}, {_count(machine.cores, 'core')}, "
        f"{_count(machine.threads, 'thread')} a model, {machine.system}, {versions}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _agreement_line(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{share:.1%} {way}" for way, share in shares.items())


def _single_line(times: SingleImageTimes) -> str:
    return (
        f"{times.ours_s * 1000:.1f} ms through /ocr, {times.theirs_s * 1000:.1f} ms "
        f"{times.competitor}: {times.ours_s / times.theirs_s:.2f} of its time"
    )


def _memory(peak_bytes: int | None) -> str:
    return ABSENT if peak_bytes is None else f"{peak_bytes / MB:.0f} MB"


def _cached_line(cached_s: float, health_s: float) -> str:
    return (
        f"{cached_s * 1000:.2f} ms, {(cached_s - health_s) * 1000:+.2f} ms to /health "
        f"({health_s * 1000:.2f} ms)"
    )
