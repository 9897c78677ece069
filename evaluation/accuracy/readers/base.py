"""The interface of a reader, and the reading of a folder with it.

Threads share the images. Every image gets exactly one prediction: a fault of one image is an answer
without success. A reader that cannot continue raises `ReaderError`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evaluation.accuracy.predictions import (
    Prediction,
    ScoredFamilies,
    score,
)
from evaluation.services.client import (
    Answer,
    ServiceClient,
    ServiceError,
)
from qwen_captcha.samples import Family, Sample

CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}
# Too many clients or no model: missing answers would be counted as mistakes, so the run ends.
OVERLOADED = frozenset({429, 503})


class ReaderError(Exception):
    """A reader cannot be used; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer and how long it took, in seconds."""

    answer: Answer
    latency_s: float


class Reader(Protocol):
    """A reader of captchas; thread-safe."""

    @property
    def name(self) -> str:
        """The name of the reader in a table."""

    def read(self, image: bytes, content_type: str, kind: str) -> Reply:
        """Read one image file of a family's kind.

        Raises:
            ReaderError: The reader cannot continue.
        """


class ServiceReader:
    """A running service, which gets images as the raw body of `POST /ocr`."""

    def __init__(self, name: str, clients: Sequence[ServiceClient]) -> None:
        self.name = name
        self._idle: queue.SimpleQueue[ServiceClient] = queue.SimpleQueue()
        for client in clients:
            self._idle.put(client)

    def read(self, image: bytes, content_type: str, kind: str) -> Reply:
        """Send one image over an idle connection."""
        client = self._idle.get()
        try:
            answer, exchange = client.ocr(image, content_type)
        except ServiceError as error:
            raise ReaderError(str(error)) from error
        finally:
            self._idle.put(client)
        if exchange.status in OVERLOADED:
            raise ReaderError(
                f"The service rejects images ({answer.error_type}): use fewer --workers."
            )
        if answer.error_type == "invalid_option":
            raise ReaderError(str(exchange.fields.get("error")))
        return Reply(answer, exchange.latency_s)


@contextmanager
def service_reader(url: str, workers: int, options: Mapping[str, str]) -> Iterator[ServiceReader]:
    """Connect to a service.

    Args:
        url: Root URL of the service.
        workers: Number of connections, one for each thread that reads.
        options: Request options of every image.

    Raises:
        ReaderError: There is no service, or it is not ready.
    """
    with ExitStack() as stack:
        try:
            clients = [
                stack.enter_context(ServiceClient(url, options=options)) for _ in range(workers)
            ]
            health = clients[0].health()
        except ServiceError as error:
            raise ReaderError(str(error)) from error
        if health.status != 200:
            state = health.fields.get("model_status")
            raise ReaderError(f"The service is not ready: {state}.")
        yield ServiceReader(str(health.fields.get("model")), clients)


def read_all(
    families: Sequence[Family], reader: Reader, workers: int, advance: Callable[[], object]
) -> ScoredFamilies:
    """Read every image of some families.

    Args:
        families: The families to read.
        reader: The reader.
        workers: Images that are read at the same time.
        advance: Called by this thread after each image.

    Raises:
        ReaderError: The reader cannot continue; the other images are not read.
    """
    ended = threading.Event()

    def read(work: tuple[Family, Sample]) -> Prediction:
        if ended.is_set():
            raise ReaderError("Not read, because the run had ended.")
        try:
            return read_one(reader, *work)
        except BaseException:
            ended.set()
            raise

    work = [(family, sample) for family in families for sample in family.samples]
    predictions = []
    with ThreadPoolExecutor(workers) as threads:
        try:
            for prediction in threads.map(read, work):
                predictions.append(prediction)
                advance()
        finally:
            ended.set()
    remaining = iter(predictions)
    return [(family, [next(remaining) for _ in family.samples]) for family in families]


def content_type_of(path: Path) -> str:
    """Return the media type for the suffix of a file."""
    return CONTENT_TYPES.get(path.suffix.lower(), "application/octet-stream")


def read_one(reader: Reader, family: Family, sample: Sample) -> Prediction:
    """Read one image, and score the answer."""
    content_type = content_type_of(sample.path)
    reply = reader.read(sample.path.read_bytes(), content_type, family.kind)
    return score(family, sample, reply.answer, reply.latency_s)
