"""Waiting for what another thread does."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.support.fake_backend import MAX_WAIT_S


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that another thread brings about."""
    deadline = time.monotonic() + MAX_WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
