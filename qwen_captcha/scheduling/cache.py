"""Cached answers for identical requests, and shared readings for identical requests in flight.

A key has everything that the answer depends on. Answers without a text are cached, too: greedy
decoding would give the same again. Errors are not cached.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from PIL import Image

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# 128 bits: a collision of two different images is practically impossible.
DIGEST_BYTES = 16


class AnswerCache(Generic[Key, Value]):
    """A thread-safe LRU cache whose entries expire.

    Args:
        max_entries: Maximum number of entries; 0 caches nothing.
        ttl_s: Seconds after which an entry expires.
        monotonic: The clock, in seconds.
    """

    def __init__(
        self, max_entries: int, ttl_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        # Least recently used first; each value with the time at which it expires.
        self._entries: OrderedDict[Key, tuple[Value, float]] = OrderedDict()

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """Return the value of a key, or None where there is none or it has expired."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            value, expiry = entry
            if self._monotonic() >= expiry:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return value

    def put(self, key: Key, value: Value) -> None:
        """Store a value; remove the least recently used one where there are too many."""
        with self._lock:
            self._entries[key] = (value, self._monotonic() + self._ttl_s)
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)


class InFlight(Generic[Key, Value]):
    """The readings that were started and are not finished, by their key; thread-safe.

    References are weak: a reading that no request refers to any more is removed automatically.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: WeakValueDictionary[Key, Value] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._readings)

    def join_or_start(
        self, key: Key, join: Callable[[Value], bool], start: Callable[[], Value]
    ) -> tuple[Value, bool]:
        """Join the reading of a key where there is one, else start it.

        Args:
            key: The key of the reading.
            join: Joins a reading; returns False if it is finished.
            start: Starts a reading.

        Returns:
            The reading, and whether it was joined.
        """
        with self._lock:
            reading = self._readings.get(key)
            if reading is not None and join(reading):
                return reading, True
            reading = self._readings[key] = start()
            return reading, False


def digest_of_bytes(data: bytes) -> bytes:
    """Return the digest of an image file."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES, person=b"file").digest()


def digest_of_pixels(image: Image.Image) -> bytes:
    """Return the digest of an RGB image: its size and its pixels."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"pixels")
    digest.update(f"{image.width}x{image.height}".encode())
    digest.update(image.tobytes())
    return digest.digest()
