"""What a service does with ten times the work that it can do.

Responsible for: measuring its capacity, sending a multiple of it at a steady rate whatever comes
back, and judging refusals, answers, throughput and probes. Leaves starting the service to
`service_process.py`. Invariant: every request that is sent is counted, and each answer is compared
with the one that the same image had when nothing else was asked.

Run: `python -m evaluation.overload [--seconds 60]`. The load comes from the same machine and takes
its share of the cores, so that throughput under overload is a lower bound.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

from evaluation.drawings import draw_captchas
from evaluation.failover import ENVIRONMENT
from evaluation.machine import commit_of, cpu_model
from evaluation.service_process import PROJECT, running_service
from evaluation.verdicts import Verdicts, conclude

TIMES = 10
IMAGES = 200
# Clients that keep a service busy without being refused.
BUSY_CLIENTS = 16
MOST_CLIENTS = 400
PROBES = ("/health", "/metrics")
PROBE_INTERVAL_S = 0.2
TIMEOUT_S = 30.0
# What is wanted.
REFUSED_WITHIN_S = 0.1
PROBED_WITHIN_S = 0.1
ANSWERED_WITHIN_S = 8.0
LEAST_THROUGHPUT = 0.9


@dataclass
class Tally:
    """What came back.

    Attributes:
        answers_s: Seconds of each answer.
        refusals_s: Seconds of each 503 with `Retry-After`.
        probes_s: Seconds of each probe.
        others: A line for every other reply, and for requests without one.
        changed: Answers that are not the image's own when nothing else was asked.
        swapped: Those among them that are another image's.
        seconds: How long it took in all.
    """

    answers_s: list[float] = field(default_factory=list)
    refusals_s: list[float] = field(default_factory=list)
    probes_s: list[float] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    changed: int = 0
    swapped: int = 0
    seconds: float = 0.0

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return len(self.answers_s) / self.seconds


class Caller:
    """Sends images over a kept-alive connection for each thread that calls it.

    A context manager, which closes them.
    """

    def __init__(self, url: str, images: Sequence[bytes]) -> None:
        self._address = urlsplit(url).netloc
        self._images = images
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[http.client.HTTPConnection] = []
        self.own: dict[int, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    def request(self, method: str, path: str, body: bytes | None) -> tuple[int, bool, bytes, float]:
        """Return status, whether there is a `Retry-After`, body and seconds."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
            self._local.connection = connection
            self._connections.append(connection)
        start = time.perf_counter()
        try:
            connection.request(method, path, body, {"Content-Type": "image/png"} if body else {})
            response = connection.getresponse()
            payload = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            raise
        seconds = time.perf_counter() - start
        return response.status, "Retry-After" in response.headers, payload, seconds

    def learn(self) -> None:
        """Ask for each image alone, and keep the answers."""
        for index, image in enumerate(self._images):
            _, _, payload, _ = self.request("POST", "/ocr", image)
            self.own[index] = json.loads(payload)["raw_response"]

    def read(self, number: int, tally: Tally) -> None:
        """Send the image with a number, counted round, and note what came back."""
        index = number % len(self._images)
        try:
            status, retry, payload, seconds = self.request("POST", "/ocr", self._images[index])
            fields = json.loads(payload)
        except (OSError, http.client.HTTPException, ValueError) as error:
            with self._lock:
                tally.others.append(type(error).__name__)
            return
        with self._lock:
            if status == 200:
                tally.answers_s.append(seconds)
                self._compare(index, fields["raw_response"], tally)
            elif status == 503 and retry:
                tally.refusals_s.append(seconds)
            else:
                tally.others.append(f"{status} {fields.get('error_type')}")

    def _compare(self, index: int, raw_response: str, tally: Tally) -> None:
        own = self.own.get(index, raw_response)
        if raw_response != own:
            tally.changed += 1
            tally.swapped += raw_response in self.own.values()


def capacity(caller: Caller, seconds: float) -> float:
    """Return how many images a second are answered to clients who wait for their answers."""
    tally = Tally()
    start = time.monotonic()

    def client(first: int) -> None:
        number = first
        while time.monotonic() < start + seconds:
            caller.read(number, tally)
            number += BUSY_CLIENTS

    with ThreadPoolExecutor(BUSY_CLIENTS) as clients:
        list(clients.map(client, range(BUSY_CLIENTS)))
    tally.seconds = time.monotonic() - start
    return tally.throughput


def overload(caller: Caller, rate: float, seconds: float) -> Tally:
    """Send `rate` images a second for some seconds, whatever comes back."""
    tally = Tally()
    over = threading.Event()
    start = time.monotonic()
    with ThreadPoolExecutor(MOST_CLIENTS + len(PROBES)) as clients:
        for path in PROBES:
            clients.submit(_probe, caller, path, tally, over)
        for number in range(int(rate * seconds)):
            time.sleep(max(0.0, start + number / rate - time.monotonic()))
            clients.submit(caller.read, number, tally)
        # What is answered after the last request was sent is not its throughput.
        tally.seconds = time.monotonic() - start
        answered = len(tally.answers_s)
        over.set()
    tally.seconds *= len(tally.answers_s) / max(1, answered)
    return tally


def _probe(caller: Caller, path: str, tally: Tally, over: threading.Event) -> None:
    while not over.wait(PROBE_INTERVAL_S):
        status, _, _, seconds = caller.request("GET", path, None)
        tally.probes_s.append(seconds)
        if status != 200:
            tally.others.append(f"{status} {path}")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies, 0 without any."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def judge(tally: Tally, unloaded: float) -> Verdicts:
    """Return each property with its figure, and whether it holds."""
    refused_s = percentile(tally.refusals_s, 0.99)
    probed_s = percentile(tally.probes_s, 0.99)
    slowest_s = max(tally.answers_s, default=0.0)
    share = tally.throughput / unloaded
    return {
        "refusals, 99th percentile": (f"{1000 * refused_s:.0f} ms of {len(tally.refusals_s)}",
                                      bool(tally.refusals_s) and refused_s <= REFUSED_WITHIN_S),
        "slowest answer": (f"{slowest_s:.2f} s of {len(tally.answers_s)}",
                           0 < slowest_s <= ANSWERED_WITHIN_S),
        "answers a second, of the unloaded": (f"{tally.throughput:.1f} / {unloaded:.1f}"
                                              f" = {share:.2f}", share >= LEAST_THROUGHPUT),
        "probes, 99th percentile": (f"{1000 * probed_s:.0f} ms of {len(tally.probes_s)}",
                                    probed_s <= PROBED_WITHIN_S),
        "answers that are another image's": (f"{tally.swapped}, {tally.changed} changed",
                                             tally.swapped == 0),
        "other replies": (f"{len(tally.others)} {sorted(set(tally.others))[:5]}",
                          not tally.others),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Overload a service with the bundled checkpoint and print what it did."""
    command = argparse.ArgumentParser(description="Send ten times what a service can do.")
    command.add_argument("--seconds", type=float, default=60.0, help="of overload")
    seconds: float = command.parse_args(arguments).seconds
    images = [image for image, _ in draw_captchas(IMAGES)]
    with running_service(ENVIRONMENT) as service, Caller(service.url, images) as caller:
        caller.learn()
        unloaded = capacity(caller, min(seconds, 20.0))
        tally = overload(caller, TIMES * unloaded, seconds)
    print(f"{cpu_model()}, commit {commit_of(PROJECT)}, {TIMES} times {unloaded:.1f} images a "
          f"second for {seconds:g} s")  # fmt: skip
    conclude(judge(tally, unloaded))


if __name__ == "__main__":
    main()
