"""The service without HTTP, for programs that read captchas in their own process.

Responsible for: a service whose model is loaded, or the error that says why it is not. Invariant:
what is returned answers.
"""

from __future__ import annotations

import queue

from qwen_captcha.admission import ModelState
from qwen_captcha.app import checked_backend, load_failure
from qwen_captcha.backends.base import BackendLoadError
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings

# A day: the largest model, downloaded first.
LOAD_TIMEOUT_S = 86_400.0
# The failure is handed over right after the state has changed.
HANDOVER_S = 10.0


def start_local_service(settings: Settings) -> CaptchaService:
    """Return a service whose model is loaded; it may be downloaded first.

    Raises:
        BackendLoadError: There is no such model, or it cannot be loaded here.
    """
    failures: queue.SimpleQueue[Exception] = queue.SimpleQueue()
    service = CaptchaService(checked_backend(settings), settings)
    service.start(failures.put)
    service.wait_until_loaded(LOAD_TIMEOUT_S)
    if service.model_state is not ModelState.READY:
        error = failures.get(timeout=HANDOVER_S)
        raise BackendLoadError(load_failure(error)) from error
    return service
