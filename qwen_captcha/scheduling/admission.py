"""Admission control: slots of the queue are reserved before an image is decoded."""

from __future__ import annotations

import math
from collections.abc import Callable

from qwen_captcha.errors import QueueFull

# Weight of the newest batch in the moving average of seconds per item.
NEWEST_WEIGHT = 0.2


class AdmissionController:
    """Counts the slots of a queue and estimates the wait.

    It has no lock: `RequestQueue` calls it under its own. At most `max_queue_size` slots are
    reserved, and each reserved slot is released once.

    Args:
        max_queue_size: Maximum admitted images: being decoded, queued or being read.
        monotonic: The clock of all deadlines, in seconds.

    Attributes:
        admitted: Slots that are reserved and not released.
        decoding: Reserved slots whose image is not in the queue yet.
    """

    def __init__(self, max_queue_size: int, monotonic: Callable[[], float]) -> None:
        self._max_queue_size = max_queue_size
        self._monotonic = monotonic
        self.admitted = 0
        self.decoding = 0
        self._seconds_per_item = 0.0

    def record_latency(self, seconds_per_item: float) -> None:
        """Add one measurement of the model's speed to the moving average."""
        average = self._seconds_per_item or seconds_per_item
        self._seconds_per_item = average + NEWEST_WEIGHT * (seconds_per_item - average)

    def reserve(self, slots: int, deadline: float) -> None:
        """Reserve slots for the images of one request.

        Raises:
            QueueFull: Not enough slots, or the estimated wait exceeds the deadline.
        """
        if (error := self.rejection(slots, deadline)) is not None:
            raise error
        self.admitted += slots
        self.decoding += slots

    def rejection(self, slots: int, deadline: float) -> QueueFull | None:
        """Return the error of a request for slots that would be rejected, None if it would not.

        Without an admitted image, everything that fits is admitted: the estimate may be outdated,
        and no other request waits.
        """
        busy_s = self.admitted * self._seconds_per_item
        retry_after_s = max(1, math.ceil(busy_s))
        if self.admitted + slots > self._max_queue_size:
            return QueueFull("The queue is full; please retry.", retry_after_s=retry_after_s)
        wait_s = busy_s + slots * self._seconds_per_item
        if self.admitted > 0 and self._monotonic() + wait_s > deadline:
            return QueueFull(
                f"The answer would take about {math.ceil(wait_s)} s, longer than this request may "
                "take; please retry.",
                retry_after_s=retry_after_s,
            )
        return None

    def mark_queued(self, slots: int) -> None:
        """Note that images are decoded: queued, or done without the queue."""
        self.decoding -= slots

    def release(self, slots: int) -> None:
        """Release slots."""
        self.admitted -= slots
