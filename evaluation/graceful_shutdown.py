"""Stop the service under load and count the requests without an answer.

    python -m evaluation.graceful_shutdown [--workers 2]

A request is lost if its connection was accepted and no whole JSON object was received.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from evaluation.load.machine import commit_of, cpu_model
from evaluation.load.synthetic_captchas import draw_captchas
from evaluation.services.service_process import (
    BUNDLED,
    PROJECT,
    SERVICE_COMMAND,
    ServiceStartError,
    exit_on_sigterm,
    running_service,
)

CLIENTS = 32
LOAD_S = 3.0
BUDGET_S = 10
TIMEOUT_S = 30.0
TURNED_AWAY = "turned away"
LOST = "lost"


def one_request(port: int, image: bytes) -> str:
    """Send an image over a new connection; return the outcome."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return TURNED_AWAY
    try:
        connection.request("POST", "/ocr", image, {"Content-Type": "image/png"})
        response = connection.getresponse()
        fields = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{LOST}: {type(error).__name__}"
    finally:
        connection.close()
    if not isinstance(fields, dict):
        return f"{LOST}: no object"
    return f"{response.status} {fields.get('error_type') or 'answered'}"


def measure(
    command: tuple[str, ...], environment: Mapping[str, str], load_s: float
) -> tuple[Counter[str], float, int]:
    """Send requests to a service, stop it, and wait until it has ended.

    Returns:
        The number of requests by outcome, the seconds from SIGTERM to the end, and the exit status.

    Raises:
        ServiceStartError: The service did not become ready.
    """
    images = [image for image, _ in draw_captchas(64)]
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def call(number: int, port: int) -> None:
        outcome = ""
        # Each client continues until its connection is refused.
        while outcome != TURNED_AWAY:
            outcome = one_request(port, images[number % len(images)])
            number += CLIENTS
            with lock:
                outcomes[outcome] += 1

    with running_service(
        {**environment, "DRAIN_TIMEOUT_S": str(BUDGET_S)}, command=command
    ) as service:
        threads = [
            threading.Thread(target=call, args=(number, service.port)) for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        time.sleep(load_s)
        os.kill(service.pid, signal.SIGTERM)
        start = time.monotonic()
        # WNOWAIT: `running_service` reaps the process.
        ended = os.waitid(os.P_PID, service.pid, os.WEXITED | os.WNOWAIT)
        stopped_s = time.monotonic() - start
        for thread in threads:
            thread.join()
    return outcomes, stopped_s, -1 if ended is None else ended.si_status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 only if no request was lost and the end came in time."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.graceful_shutdown",
        description="Stop the service while callers send one request after another.",
    )
    parser.add_argument("--workers", type=int, default=1)
    chosen = parser.parse_args(argv)
    exit_on_sigterm()
    environment = {**BUNDLED, "WORKERS": str(chosen.workers)}
    try:
        outcomes, stopped_s, status = measure(SERVICE_COMMAND, environment, LOAD_S)
    except ServiceStartError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{cpu_model()}, {os.cpu_count()} cores, commit {commit_of(PROJECT)}")
    print(f"{CLIENTS} callers, {chosen.workers} workers: {dict(outcomes)}")
    print(f"ended {stopped_s:.2f} s after SIGTERM (budget {BUDGET_S} s) with status {status}")
    lost = any(outcome.startswith(LOST) for outcome in outcomes)
    return 1 if lost or status != 0 or stopped_s > BUDGET_S else 0


if __name__ == "__main__":
    sys.exit(main())
