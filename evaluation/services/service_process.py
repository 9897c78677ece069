"""The service as a child process: start it, wait until it is ready, stop it.

After the context no process of the service runs, even if the context ended with an error.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from evaluation.services.client import ServiceClient, ServiceError

PROJECT = Path(__file__).resolve().parents[2]
SERVICE_COMMAND = (sys.executable, str(PROJECT / "qwen_captcha_service.py"))
READY_TIMEOUT_S = 600.0  # A 2B checkpoint from a cold disk.
STOP_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.02
LOG_LINES = 15
# Settings of the bundled checkpoint on one core; no cache, so that each answer comes from it.
BUNDLED = {
    "QWEN_MODEL": "bundled",
    "USE_GPU": "false",
    "HOST": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
    "CACHE_SIZE": "0",
}


class ServiceStartError(Exception):
    """The service ended or did not become ready; the message ends with its last log lines."""


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that is ready.

    Attributes:
        url: Root URL of the service.
        pid: Process id of the process that was started.
        start_to_ready_s: Seconds from the start of the process to the first 200 of `/health`.
        health: The reply of that `/health`.
        port: Its port on loopback.
        log: Descriptor of its log file.
    """

    url: str
    pid: int
    start_to_ready_s: float
    health: Mapping[str, object]
    port: int
    log: int

    @property
    def log_text(self) -> str:
        """The log so far."""
        return _log_text(self.log)


@contextmanager
def running_service(
    environment: Mapping[str, str],
    *,
    command: tuple[str, ...] = SERVICE_COMMAND,
    ready_timeout_s: float = READY_TIMEOUT_S,
    stop_timeout_s: float = STOP_TIMEOUT_S,
    port: int | None = None,
) -> Iterator[RunningService]:
    """Run the service on a loopback port.

    Args:
        environment: Variables in addition to those of this process and the port.
        command: The command to start.
        ready_timeout_s: Maximum seconds until the service is ready.
        stop_timeout_s: Seconds from SIGTERM to SIGKILL.
        port: Its port on loopback; None chooses a free one.

    Raises:
        ServiceStartError: The service ended or was not ready in time.
    """
    port = free_port() if port is None else port
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment, "PORT": str(port), "FLASK_RUN_PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            # A process group of its own, so that its children can be ended with it.
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            health = _wait_until_ready(url, process, start + ready_timeout_s)
            ready = time.monotonic()
            if health is None:
                raise ServiceStartError(f"{_reason(process)}\n{_last_lines(log.fileno())}")
            yield RunningService(url, process.pid, ready - start, health, port, log.fileno())
        finally:
            _stop(process, stop_timeout_s)


def exit_on_sigterm() -> None:
    """Raise SystemExit at SIGTERM, so that context managers stop their services."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, leave)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(
    url: str, process: subprocess.Popen[bytes], deadline: float
) -> Mapping[str, object] | None:
    """Return the first `/health` with status 200; None if the service ended or timed out."""
    with ServiceClient(url, timeout_s=5.0) as client:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(ServiceError):  # It does not listen yet.
                reply = client.health()
                if reply.status == 200:
                    return reply.fields
            time.sleep(POLL_INTERVAL_S)
    return None


def _reason(process: subprocess.Popen[bytes]) -> str:
    if process.returncode is None:
        return "The service did not become ready in time. Its last lines:"
    return f"The service ended with status {process.returncode}. Its last lines:"


def _last_lines(log: int) -> str:
    """Return the end of a log."""
    return "\n".join(_log_text(log).splitlines()[-LOG_LINES:])


def _log_text(log: int) -> str:
    """Return a log by absolute position: the service shares the file's offset."""
    size = os.fstat(log).st_size
    return os.pread(log, size, 0).decode(errors="replace")


def end_process(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """End one process: SIGTERM, then SIGKILL if it has not ended in time."""
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stop(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """End the service, then the rest of its process group."""
    try:
        end_process(process, timeout_s)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
