"""Measure the throughput of one worker, of two, and of one under a CPU quota of one core.

    python -m evaluation.scaling [--rounds 3]

All are measured in turns on the same images. The quota needs root and cgroups (1 or 2); its control
group is removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from evaluation.load.machine import commit_of, cpu_model
from evaluation.load.speed import measure_rounds, render_ways
from evaluation.load.synthetic_captchas import draw_captchas
from evaluation.load.workloads import concurrent_clients
from evaluation.services.client import ServiceError
from evaluation.services.service_process import (
    BUNDLED,
    PROJECT,
    SERVICE_COMMAND,
    RunningService,
    ServiceStartError,
    exit_on_sigterm,
    running_service,
)
from qwen_captcha.backends.hardware import CGROUPS, usable_cores

CLIENTS = 16
IMAGES = 64
PERIOD_US = 100_000
QUOTA = "1 worker, quota of one core"


@contextmanager
def one_core_group(cgroups: Path = CGROUPS) -> Iterator[Path]:
    """Create a control group with a quota of one core; yield its folder.

    Raises:
        OSError: This process may not create one.
    """
    first = (cgroups / "cpu" / "cpu.cfs_quota_us").exists()
    group = cgroups / ("cpu" if first else "") / f"captcha-scaling-{os.getpid()}"
    group.mkdir()
    try:
        if first:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(PERIOD_US))
        else:
            (group / "cpu.max").write_text(f"{PERIOD_US} {PERIOD_US}")
        yield group
    finally:
        group.rmdir()


def inside(group: Path, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command that runs another one in a control group."""
    script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    return ("sh", "-c", script, str(group), *command)


def threads_of(service: RunningService) -> list[int]:
    """Return the number of CPU threads of each worker's model, from its log."""
    return [int(number) for number in re.findall(r"(\d+) CPU threads", service.log_text)]


def wait_for_workers(service: RunningService, workers: int) -> None:
    """Wait until all workers are ready; `/health` reports only one of them."""
    while service.log_text.count("Ready: reading") < workers:
        time.sleep(0.1)


def start_all(stack: ExitStack) -> Mapping[str, RunningService]:
    """Start every kind of service that can be measured here."""
    # More threads than cores, so that the log shows how the service limits them.
    environment = {**BUNDLED, "OMP_NUM_THREADS": str(2 * usable_cores())}
    # Long enough for a slow machine.
    environment["OCR_TIMEOUT_S"] = "600"
    services = {
        f"{workers} worker{'s' * (workers > 1)}": stack.enter_context(
            running_service({**environment, "WORKERS": str(workers)})
        )
        for workers in (1, 2)
    }
    wait_for_workers(services["2 workers"], 2)
    try:
        group = stack.enter_context(one_core_group())
    except OSError as error:
        print(f"No quota is measured: {error}", file=sys.stderr)
        return services
    command = inside(group, SERVICE_COMMAND)
    services[QUOTA] = stack.enter_context(running_service(environment, command=command))
    return services


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.scaling", description="Throughput by workers and CPU quota."
    )
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args(argv)
    exit_on_sigterm()
    images = [image for image, _ in draw_captchas(IMAGES)]
    try:
        with ExitStack() as stack:
            services = start_all(stack)
            groups = {
                name: stack.enter_context(concurrent_clients(service.url, CLIENTS))
                for name, service in services.items()
            }
            for clients in groups.values():
                clients.read(images)
            ways = measure_rounds(
                {name: partial(clients.read, images) for name, clients in groups.items()},
                IMAGES,
                chosen.rounds,
            )
            threads = {name: threads_of(service) for name, service in services.items()}
    except (ServiceStartError, ServiceError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{cpu_model()}, {usable_cores()} usable cores, commit {commit_of(PROJECT)}")
    print(render_ways(ways))
    print(f"threads of each worker's model: {threads}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
