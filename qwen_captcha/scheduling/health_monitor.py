"""HealthMonitor: keeps the state of the model up to date while no images arrive.

Responsible for: asking an engine in another process every few seconds, so that `/health` knows of
its end and of its return; having a broken model in this process try again, because a balancer that
asks `/readyz` sends it no images. Invariant: a model that is being loaded stays so until it is
loaded.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from qwen_captcha.errors import CaptchaServiceError, EngineBusy
from qwen_captcha.scheduling.admission import AdmissionController, ModelState
from qwen_captcha.scheduling.batcher import MicroBatcher

INTERVAL_S = 5.0

Task = TypeVar("Task")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


def trial_probe(
    batcher: MicroBatcher[Task, Result],
    task: Task,
    timeout_s: float,
    monotonic: Callable[[], float],
) -> Callable[[], None]:
    """Return a probe of the model behind a batcher, which only a broken one has work with.

    Args:
        batcher: Hands tasks to the model.
        task: What a broken model is to read.
        timeout_s: Longest wait for it, in seconds.
        monotonic: The batcher's clock, in seconds.
    """

    def probe() -> None:
        if batcher.admission.state is ModelState.FAILED:
            deadline = monotonic() + timeout_s
            with batcher.reserve(1, deadline) as reservation:
                reservation.submit(task).result(deadline)

    return probe


class HealthMonitor:
    """Probes an engine from a thread of its own until the service shuts down.

    Args:
        controller: Where the state is kept.
        probe: Raises CaptchaServiceError where the engine does not work.
    """

    def __init__(self, controller: AdmissionController, probe: Callable[[], None]) -> None:
        self._controller = controller
        self._probe = probe

    def start(self, interval_s: float = INTERVAL_S) -> None:
        """Begin to monitor, with a check every `interval_s`."""

        def monitor() -> None:
            while not self._controller.wait_until_closed(interval_s):
                self.check()

        threading.Thread(target=monitor, name="health-monitor", daemon=True).start()

    def check(self) -> None:
        """Probe the engine once and enter the state that it is in."""
        if self._controller.state is ModelState.LOADING:
            return
        try:
            self._probe()
        except EngineBusy:
            return
        except CaptchaServiceError as error:
            if self._controller.state is ModelState.READY:
                log.error("The engine does not work: %s", error.message)
                self._controller.set_state(ModelState.FAILED, error.message)
        else:
            if self._controller.state is ModelState.FAILED:
                log.warning("The engine works again.")
                self._controller.set_state(ModelState.READY)
