"""Run mixed requests for a long time and compare memory, descriptors, threads and latency.

    python -m evaluation.soak [--requests 50000]

The service after its warm-up is compared with the service at the end, under the same requests.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psutil
import requests

from evaluation.load.checks import Checks, conclude
from evaluation.load.machine import commit_of, cpu_model
from evaluation.load.malformed_files import NamedImage, damaged_captchas
from evaluation.load.synthetic_captchas import draw_captchas
from evaluation.malformed_images import (
    FORMS,
    MIB,
    fault_of,
)
from evaluation.services.service_process import (
    BUNDLED,
    PROJECT,
    running_service,
)

REQUESTS = 50_000
# A tenth of the run warms up; its last and the run's last requests are compared.
WARM_UP_SHARE = 0.1
COMPARED_SHARE = 0.02
MAX_MEMORY_GROWTH = 0.05
MAX_SLOWDOWN = 0.2
# Additional descriptors and threads are allowed for keep-alive connections.
SPARE = 4
IMAGES = 300


@dataclass(frozen=True)
class State:
    """Memory in bytes, descriptors and threads of all processes of a service at one moment."""

    resident_bytes: int
    descriptors: int
    threads: int


@dataclass
class Run:
    """The measurements of a run.

    Attributes:
        latencies_s: Seconds of each request, in order.
        faults: A line for each faulty reply.
        states: State of the service by the number of requests before it.
    """

    latencies_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    states: dict[int, State] = field(default_factory=dict)


def state_of(pid: int) -> State:
    """Return the resources of a process and its descendants."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    return State(
        sum(member.memory_info().rss for member in family),
        sum(member.num_fds() for member in family),
        sum(member.num_threads() for member in family),
    )


def mixed_images(count: int) -> list[NamedImage]:
    """Return captchas, every tenth of them damaged."""
    damaged = list(damaged_captchas(max(1, count // 90)))
    whole = [(label, image) for image, label in draw_captchas(count)]
    return [damaged[index // 10 % len(damaged)] if index % 10 == 9 else image
            for index, image in enumerate(whole)]  # fmt: skip


def run_soak(url: str, pid: int, images: Sequence[NamedImage], count: int) -> Run:
    """Send `count` requests, images and forms in turns; record the service's state ten times."""
    run = Run()
    forms = list(FORMS.values())
    recorded = {int(count * share / 10) for share in range(1, 11)}
    with requests.Session() as session:
        for number in range(1, count + 1):
            route, arguments = forms[number % len(forms)]
            name, data = images[number // len(forms) % len(images)]
            start = time.perf_counter()
            reply = session.post(url + route, timeout=30, **arguments(data))
            run.latencies_s.append(time.perf_counter() - start)
            if (fault := fault_of(reply, 0.0)) is not None:
                run.faults.append(f"{route} {name}: {fault}")
            if number in recorded:
                run.states[number] = state_of(pid)
                _print_progress(run)
    return run


def _print_progress(run: Run) -> None:
    """Print progress."""
    number, state = list(run.states.items())[-1]
    median_ms = 1000 * statistics.median(run.latencies_s[-100:])
    print(f"{number} requests: {state.resident_bytes // MIB} MiB, {median_ms:.1f} ms",
          file=sys.stderr, flush=True)  # fmt: skip


def checks_of(run: Run) -> Checks:
    """Return each property with its figure, and whether it holds."""
    count = len(run.latencies_s)
    compared = max(1, int(count * COMPARED_SHARE))
    warm_up = int(count * WARM_UP_SHARE)
    first, last = run.states[warm_up], run.states[count]
    grown = last.resident_bytes / first.resident_bytes - 1
    early = statistics.median(run.latencies_s[warm_up : warm_up + compared])
    late = statistics.median(run.latencies_s[-compared:])
    return {
        "memory": (f"{first.resident_bytes // MIB} → {last.resident_bytes // MIB} MiB "
                   f"({grown:+.1%})", grown <= MAX_MEMORY_GROWTH),
        "descriptors": (f"{first.descriptors} → {last.descriptors}",
                        last.descriptors <= first.descriptors + SPARE),
        "threads": (f"{first.threads} → {last.threads}", last.threads <= first.threads + SPARE),
        "median latency": (f"{1000 * early:.1f} → {1000 * late:.1f} ms",
                           late <= early * (1 + MAX_SLOWDOWN)),
        "faults": (f"{len(run.faults)} {run.faults[:3]}", not run.faults),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a service with the bundled checkpoint for many requests and print the checks."""
    command = argparse.ArgumentParser(description="Send many mixed requests.")
    command.add_argument("--requests", type=int, default=REQUESTS)
    count: int = command.parse_args(arguments).requests
    with running_service(BUNDLED) as service:
        run = run_soak(service.url, service.pid, mixed_images(IMAGES), count)
    print(f"{cpu_model()}, commit {commit_of(PROJECT)}, {count} requests, from request "
          f"{int(count * WARM_UP_SHARE)} on")  # fmt: skip
    conclude(checks_of(run))


if __name__ == "__main__":
    main()
