"""Probes of the model while no images arrive.

An engine in another process is probed every few seconds, so that `/health` reports when it fails
and when it works again. A broken model in this process reads a test image, because a load balancer
that checks `/readyz` sends it no images.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from qwen_captcha.errors import CaptchaServiceError, EngineBusy
from qwen_captcha.scheduling.request_queue import ModelState, RequestQueue

INTERVAL_S = 5.0

Task = TypeVar("Task")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


def trial_probe(
    queue: RequestQueue[Task, Result],
    task: Task,
    timeout_s: float,
    monotonic: Callable[[], float],
) -> Callable[[], None]:
    """Return a probe of the model behind a queue, which reads a task only if it is broken.

    Args:
        queue: The queue of the model.
        task: The task for a broken model.
        timeout_s: Maximum wait for the result, in seconds.
        monotonic: The clock of the queue, in seconds.
    """

    def probe() -> None:
        if queue.state is ModelState.FAILED:
            deadline = monotonic() + timeout_s
            with queue.reserve(1, deadline) as reservation:
                reservation.submit(task).result(deadline)

    return probe


class HealthMonitor(Generic[Task, Result]):
    """Probes an engine from a thread of its own until the service shuts down.

    Args:
        queue: The queue that has the state of the model.
        probe: Raises CaptchaServiceError where the engine does not work.
    """

    def __init__(self, queue: RequestQueue[Task, Result], probe: Callable[[], None]) -> None:
        self._queue = queue
        self._probe = probe

    def start(self) -> None:
        """Begin to monitor, with a check every `INTERVAL_S`."""

        def monitor() -> None:
            while not self._queue.wait_until_closed(INTERVAL_S):
                self.check()

        threading.Thread(target=monitor, name="health-monitor", daemon=True).start()

    def check(self) -> None:
        """Probe the engine once and set the state; a model that is being loaded is not probed."""
        if self._queue.state is ModelState.LOADING:
            return
        try:
            self._probe()
        except EngineBusy:
            return
        except CaptchaServiceError as error:
            if self._queue.set_state(ModelState.FAILED, error.message):
                log.error("The engine does not work: %s", error.message)
        else:
            if self._queue.set_state(ModelState.READY):
                log.warning("The engine works again.")
