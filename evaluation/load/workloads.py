"""Loads of a service: large batches, many clients, a repeated image.

A measured image was read by the model, or answered from the cache if the load requires that. A
rejected request ends the measurement, because a rejection is faster than an answer.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from statistics import median

from evaluation.accuracy.predictions import NO_ANSWER
from evaluation.services.client import (
    Answer,
    Exchange,
    ServiceClient,
    ServiceError,
)

TURN_IMAGES = 8
# The threads of a competitor's runtime continue to spin for a while after each image.
SETTLE_S = 0.3


def read_in_batches(client: ServiceClient, images: Sequence[bytes], size: int) -> list[Answer]:
    """Read images with one `/batch-ocr` after another of `size` images, none from a cache."""
    answers: list[Answer] = []
    for start in range(0, len(images), size):
        batch, exchange = client.batch_ocr(images[start : start + size])
        _check(batch, exchange, from_cache=False)
        answers += batch
    return answers


class ConcurrentClients:
    """Concurrent clients of `/ocr`, each with a connection and a thread of its own."""

    def __init__(self, clients: Sequence[ServiceClient], threads: ThreadPoolExecutor) -> None:
        self._clients = clients
        self._threads = threads

    def read(self, images: Sequence[bytes]) -> list[Answer]:
        """Read images, none from a cache; each client sends the next one after its answer."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(images)):
            waiting.put(index)
        answers: dict[int, Answer] = {}

        def caller(client: ServiceClient) -> None:
            while True:
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    return
                answers[index], exchange = client.ocr(images[index])
                _check([answers[index]], exchange, from_cache=False)

        list(self._threads.map(caller, self._clients))
        return [answers[index] for index in range(len(images))]


@contextmanager
def concurrent_clients(url: str, size: int) -> Iterator[ConcurrentClients]:
    """Open `size` concurrent clients of one service."""
    with ExitStack() as stack:
        clients = [stack.enter_context(ServiceClient(url)) for _ in range(size)]
        yield ConcurrentClients(clients, stack.enter_context(ThreadPoolExecutor(size)))


def cached_latencies(client: ServiceClient, image: bytes, repeats: int) -> tuple[float, float]:
    """Return the median seconds of a repeated `/ocr` image and of `/health`, in turns."""
    client.ocr(image)
    cached, health = [], []
    for _ in range(repeats):
        health.append(client.health().latency_s)
        answer, exchange = client.ocr(image)
        _check([answer], exchange, from_cache=True)
        cached.append(exchange.latency_s)
    return median(cached), median(health)


def single_latencies(
    client: ServiceClient, read_theirs: Callable[[bytes], object], images: Sequence[bytes]
) -> tuple[float, float]:
    """Return the median seconds of one captcha through `/ocr` and elsewhere, in turns of eight."""
    ours_s, theirs_s = [], []
    for start in range(0, len(images), TURN_IMAGES):
        turn = images[start : start + TURN_IMAGES]
        time.sleep(SETTLE_S)
        for image in turn:
            answer, exchange = client.ocr(image)
            _check([answer], exchange, from_cache=False)
            ours_s.append(exchange.latency_s)
        time.sleep(SETTLE_S)
        for image in turn:
            begin = time.perf_counter()
            read_theirs(image)
            theirs_s.append(time.perf_counter() - begin)
    return median(ours_s), median(theirs_s)


def _check(answers: Sequence[Answer], exchange: Exchange, *, from_cache: bool) -> None:
    """Check that the model or the cache answered; an answer without a text is accepted.

    Raises:
        ServiceError: A request was rejected, or the use of the cache was not as required.
    """
    for answer in answers:
        if not answer.success and answer.error_type != NO_ANSWER:
            raise ServiceError(f"The service rejected an image: {answer.error_type}.")
    if (exchange.cache_use == "hit") is not from_cache:
        raise ServiceError(
            f"X-Cache must {'' if from_cache else 'not '}be hit, but it is {exchange.cache_use}."
        )
