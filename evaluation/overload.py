"""Measure a service under ten times the load that it can serve.

    python -m evaluation.overload [--seconds 60]

The capacity is measured first; then requests arrive at a steady rate, independent of the replies.
Every request is counted, and each answer is compared with that of the same image on an idle
service. The load comes from the same machine, so that the throughput is a lower bound.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from evaluation.load.async_client import AsyncClient
from evaluation.load.checks import Checks, conclude
from evaluation.load.machine import commit_of, cpu_model
from evaluation.load.synthetic_captchas import draw_captchas
from evaluation.services.service_process import (
    BUNDLED,
    PROJECT,
    running_service,
)

TIMES = 10
IMAGES = 200
# Clients that keep a service busy without being rejected.
BUSY_CLIENTS = 16
MAX_CLIENTS = 400
PROBES = ("/health", "/metrics")
PROBE_INTERVAL_S = 0.2
# Limits of the checks.
REJECTED_WITHIN_S = 0.1
PROBED_WITHIN_S = 0.1
ANSWERED_WITHIN_S = 8.0
MIN_THROUGHPUT = 0.9


@dataclass
class Tally:
    """The replies so far.

    Attributes:
        answers_s: Seconds of each answer.
        rejections_s: Seconds of each 503 with `Retry-After`.
        probes_s: Seconds of each probe.
        others: A line for every other reply, and for requests without one.
        changed: Answers that differ from the answer of the same image on an idle service.
        swapped: Changed answers that equal the answer of another image.
        seconds: Duration of sending.
        in_time: Answers within that duration.
    """

    answers_s: list[float] = field(default_factory=list)
    rejections_s: list[float] = field(default_factory=list)
    probes_s: list[float] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    changed: int = 0
    swapped: int = 0
    seconds: float = 0.0
    in_time: int = 0

    @property
    def throughput(self) -> float:
        """Answers a second."""
        return self.in_time / self.seconds


class Caller:
    """Sends images to one service and records the replies.

    Args:
        url: The root URL of the service.
        images: The images, which are sent in turn repeatedly.
    """

    def __init__(self, url: str, images: Sequence[bytes]) -> None:
        self._url = url
        self._images = images
        self.own: dict[int, str] = {}

    def learn(self) -> None:
        """Store the answer to each image on the idle service."""
        asyncio.run(self._learn())

    def capacity(self, seconds: float) -> float:
        """Return the images per second that are answered to clients that wait for each answer."""
        return asyncio.run(self._capacity(seconds))

    def overload(self, rate: float, seconds: float) -> Tally:
        """Send `rate` images per second for some seconds, independent of the replies."""
        return asyncio.run(self._overload(rate, seconds))

    async def _learn(self) -> None:
        client = AsyncClient(self._url, 1)
        for index, image in enumerate(self._images):
            reply = await client.ask(client.post("/ocr", image))
            self.own[index] = json.loads(reply.body)["raw_response"]
        client.close()

    async def _capacity(self, seconds: float) -> float:
        client, tally = AsyncClient(self._url, BUSY_CLIENTS), Tally()
        requests = [client.post("/ocr", image) for image in self._images]
        start = time.monotonic()

        async def send(first: int) -> None:
            for number in itertools.count(first, BUSY_CLIENTS):
                if time.monotonic() >= start + seconds:
                    return
                await self._read(client, requests, number, tally)

        await asyncio.gather(*map(send, range(BUSY_CLIENTS)))
        tally.seconds, tally.in_time = time.monotonic() - start, len(tally.answers_s)
        client.close()
        return tally.throughput

    async def _overload(self, rate: float, seconds: float) -> Tally:
        client, probes, tally = (
            AsyncClient(self._url, MAX_CLIENTS),
            AsyncClient(self._url, 2),
            Tally(),
        )
        requests = [client.post("/ocr", image) for image in self._images]
        start = time.monotonic()
        probing = [asyncio.create_task(_probe(probes, path, tally)) for path in PROBES]
        reading = set()
        for number in range(int(rate * seconds)):
            if (early_s := start + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            elif number % 16 == 0:
                await asyncio.sleep(0)  # Behind schedule: let the loop handle replies.
            task = asyncio.create_task(self._read(client, requests, number, tally))
            reading.add(task)
            task.add_done_callback(reading.discard)
        # Later answers are not part of the throughput.
        tally.seconds, tally.in_time = time.monotonic() - start, len(tally.answers_s)
        for task in probing:
            task.cancel()
        for result in await asyncio.gather(*reading, *probing, return_exceptions=True):
            if isinstance(result, Exception):  # A task that was cancelled gives a BaseException.
                raise result
        client.close()
        probes.close()
        return tally

    async def _read(
        self, client: AsyncClient, requests: Sequence[bytes], number: int, tally: Tally
    ) -> None:
        """Send the image of a number, modulo the images, and record the reply."""
        index = number % len(requests)
        try:
            reply = await client.ask(requests[index])
            fields = json.loads(reply.body)
            raw_response = fields["raw_response"] if reply.status == 200 else ""
        except (OSError, ValueError, LookupError, TypeError) as error:
            tally.others.append(type(error).__name__)
            return
        if reply.status == 200:
            tally.answers_s.append(reply.seconds)
            self._compare(index, raw_response, tally)
        elif reply.status == 503 and reply.retry_after:
            tally.rejections_s.append(reply.seconds)
        else:
            tally.others.append(f"{reply.status} {fields.get('error_type')}")

    def _compare(self, index: int, raw_response: str, tally: Tally) -> None:
        own = self.own.get(index, raw_response)
        if raw_response != own:
            tally.changed += 1
            tally.swapped += raw_response in self.own.values()


async def _probe(client: AsyncClient, path: str, tally: Tally) -> None:
    while True:
        await asyncio.sleep(PROBE_INTERVAL_S)
        try:
            reply = await client.ask(client.get(path))
        except OSError as error:
            tally.others.append(f"{type(error).__name__} {path}")
            continue
        tally.probes_s.append(reply.seconds)
        if reply.status != 200:
            tally.others.append(f"{reply.status} {path}")


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies, 0 without any."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def checks_of(tally: Tally, unloaded: float) -> Checks:
    """Return each property with its figure, and whether it holds."""
    rejected_s = percentile(tally.rejections_s, 0.99)
    probed_s = percentile(tally.probes_s, 0.99)
    slowest_s = max(tally.answers_s, default=0.0)
    share = tally.throughput / unloaded
    return {
        "rejections, 99th percentile": (f"{1000 * rejected_s:.0f} ms of {len(tally.rejections_s)}",
                                      bool(tally.rejections_s) and rejected_s <= REJECTED_WITHIN_S),
        "slowest answer": (f"{slowest_s:.2f} s of {len(tally.answers_s)}",
                           0 < slowest_s <= ANSWERED_WITHIN_S),
        "answers a second, of the unloaded": (f"{tally.throughput:.1f} / {unloaded:.1f}"
                                              f" = {share:.2f}", share >= MIN_THROUGHPUT),
        "probes, 99th percentile": (f"{1000 * probed_s:.0f} ms of {len(tally.probes_s)}",
                                    bool(tally.probes_s) and probed_s <= PROBED_WITHIN_S),
        "answers that are another image's": (f"{tally.swapped}, {tally.changed} changed",
                                             tally.swapped == 0),
        "other replies": (f"{len(tally.others)} {sorted(set(tally.others))[:5]}",
                          not tally.others),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Overload a service with the bundled checkpoint and print the results."""
    command = argparse.ArgumentParser(
        description="Send ten times the load that a service can serve."
    )
    command.add_argument("--seconds", type=float, default=60.0, help="of overload")
    seconds: float = command.parse_args(arguments).seconds
    images = [image for image, _ in draw_captchas(IMAGES)]
    with running_service(BUNDLED) as service:
        caller = Caller(service.url, images)
        caller.learn()
        unloaded = caller.capacity(min(seconds, 20.0))
        tally = caller.overload(TIMES * unloaded, seconds)
    print(f"{cpu_model()}, commit {commit_of(PROJECT)}, {TIMES} times {unloaded:.1f} images a "
          f"second for {seconds:g} s")  # fmt: skip
    conclude(checks_of(tally, unloaded))


if __name__ == "__main__":
    main()
