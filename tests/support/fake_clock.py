"""A clock that a test advances."""

from __future__ import annotations


class FakeClock:
    """A clock that a test advances, in seconds."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
