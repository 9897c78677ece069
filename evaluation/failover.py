"""Kill one of two instances behind nginx under load, restart it, and count the failed requests.

    python -m evaluation.failover [--requests 2000]

A request is answered only if the reply has status 200, a JSON object and the text that an instance
returned for the same image before, within the ten seconds of the Go client.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from evaluation.load.machine import commit_of, cpu_model
from evaluation.load.synthetic_captchas import draw_captchas
from evaluation.services.client import ServiceClient, ServiceError
from evaluation.services.nginx_process import NginxStartError, running_nginx
from evaluation.services.service_process import (
    BUNDLED,
    PROJECT,
    SERVICE_COMMAND,
    RunningService,
    ServiceStartError,
    exit_on_sigterm,
    running_service,
)

GO_TIMEOUT_S = 10.0
CLIENTS = 16
DISTINCT_IMAGES = 100
# Below the rate limit of nginx for one address, 200 a second.
REQUESTS_PER_S = 150.0
OVER_THE_LIMIT_BYTES = 80 * 1024 * 1024


@dataclass
class Tally:
    """Counts of the outcomes of requests so far; guarded by its lock.

    Attributes:
        outcomes: `answered`, `wrong answer` or an error -> number of requests.
        phases: Phase -> number of answered requests in it.
        slowest_s: Maximum wait of a client, in seconds.
        phase: The current phase.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    phase: str = "both up"
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, outcome: str, latency_s: float) -> None:
        """Count one request."""
        with self.lock:
            self.outcomes[outcome] += 1
            self.phases[self.phase] += outcome == "answered"
            self.slowest_s = max(self.slowest_s, latency_s)

    def enter(self, phase: str) -> None:
        """Begin a phase and print its name."""
        print(f"{self.outcomes.total()} requests, now: {phase}", file=sys.stderr, flush=True)
        with self.lock:
            self.phase = phase

    def wait_for(self, requests: int) -> None:
        """Wait until this number of requests has been counted."""
        while self.outcomes.total() < requests:
            time.sleep(0.01)


def texts_of(url: str, images: Sequence[bytes]) -> list[str]:
    """Return the texts of one instance."""
    with ServiceClient(url) as client:
        return [client.ocr(image)[0].text for image in images]


@contextmanager
def callers(url: str, images: Sequence[bytes], texts: Sequence[str]) -> Iterator[Tally]:
    """Send the images over and over, as the Go program does, until the context is left."""
    tally, stop = Tally(), threading.Event()

    def call(number: int) -> None:
        with ServiceClient(url, timeout_s=GO_TIMEOUT_S) as client:
            while not stop.wait(CLIENTS / REQUESTS_PER_S):
                index = number % len(images)
                number += CLIENTS + 1
                start = time.monotonic()
                outcome = _outcome(client, images[index], texts[index])
                tally.add(outcome, time.monotonic() - start)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _outcome(client: ServiceClient, image: bytes, text: str) -> str:
    try:
        answer, exchange = client.ocr(image)
    except ServiceError as error:
        return str(error)
    if exchange.status != 200:
        return f"{exchange.status} {exchange.fields.get('error_type')}"
    return "answered" if answer.text == text else "wrong answer"


def kill(service: RunningService) -> None:
    """Kill an instance and its workers with SIGKILL."""
    os.killpg(service.pid, signal.SIGKILL)


def measure(
    requests: int, command: tuple[str, ...], environment: Mapping[str, str]
) -> tuple[Tally, list[str]]:
    """Run all phases; return the tally, and the replies to a large body and without an instance.

    Raises:
        ServiceStartError: An instance did not become ready.
        NginxStartError: nginx did not start.
        ServiceError: A reply was not a JSON object, or there was none.
    """
    images = [image for image, _ in draw_captchas(DISTINCT_IMAGES)]
    with (
        running_service(environment, command=command) as one,
        running_service(environment, command=command) as two,
        running_nginx([one.port, two.port]) as port,
    ):
        url = f"http://127.0.0.1:{port}"
        with callers(url, images, texts_of(one.url, images)) as tally:
            tally.wait_for(requests // 4)
            kill(two)
            tally.enter("one killed")
            tally.wait_for(requests // 2)
            tally.enter("one loading")
            with running_service(environment, command=command, port=two.port) as again:
                tally.enter("both up again")
                tally.wait_for(max(requests, tally.outcomes.total() + requests // 4))
                with ServiceClient(url) as client:
                    replies = [_reply_line("a body of 80 MiB", client, bytes(OVER_THE_LIMIT_BYTES))]
                kill(again)
        kill(one)
        with ServiceClient(url) as client:
            replies.append(_reply_line("no instance up", client, images[0]))
    return tally, replies


def _reply_line(case: str, client: ServiceClient, image: bytes) -> str:
    _, exchange = client.ocr(image)
    return f"{case}: {exchange.status} {dict(exchange.fields)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 only if every request was answered."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.failover",
        description="Kill and restart one of two instances behind nginx under load.",
    )
    parser.add_argument("--requests", type=int, default=2000, help="minimum number of requests")
    chosen = parser.parse_args(argv)
    exit_on_sigterm()
    try:
        tally, replies = measure(chosen.requests, SERVICE_COMMAND, BUNDLED)
    except (ServiceStartError, NginxStartError, ServiceError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{cpu_model()}, {os.cpu_count()} cores, commit {commit_of(PROJECT)}")
    print(f"{tally.outcomes.total()} requests: {dict(tally.outcomes)}")
    print(f"answered while {dict(tally.phases)}; slowest {tally.slowest_s:.2f} s")
    print("\n".join(replies))
    return 0 if set(tally.outcomes) == {"answered"} else 1


if __name__ == "__main__":
    sys.exit(main())
