"""A backend without a model, and the applications that live servers run with it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from flask import Flask
from PIL import Image

from qwen_captcha.app import create_app
from qwen_captcha.backends.base import RemoteEngine
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.readers.reader import TRIAL
from qwen_captcha.recognition.reading import (
    Capabilities,
    GenerationOutput,
    GenerationRequest,
)
from qwen_captcha.scheduling import health_monitor
from qwen_captcha.service import CaptchaService

# Longest wait of a test for another thread, in seconds; only a failing test waits so long.
MAX_WAIT_S = 30.0

# The fixture `start_service`.
ServiceFactory = Callable[..., CaptchaService]


def width_of(task: GenerationRequest) -> str:
    """Read an image as its width, so that every image has an answer of its own."""
    return f"w{task.image.width}"


class FakeBackend:
    """Reads by a function, records its batches, blocks while it is held.

    Args:
        respond: Returns the text for a task; may raise.
        log_probability: Of every reading.
        complete: Of every reading.
        capabilities: Of the model.
        load_error: Raised by `load`.
    """

    name = "torch"
    model_name = "fake-model"
    device = "cpu"
    gpu_available = False
    remote: RemoteEngine | None = None

    def __init__(
        self,
        respond: Callable[[GenerationRequest], str] = width_of,
        *,
        log_probability: float | None = -0.25,
        complete: bool = True,
        capabilities: Capabilities | None = None,
        load_error: Exception | None = None,
    ) -> None:
        self.respond = respond
        self.log_probability = log_probability
        self.complete = complete
        self.capabilities = capabilities or Capabilities()
        self.load_error = load_error
        self.batches: list[list[GenerationRequest]] = []
        self._open = threading.Event()
        self._open.set()
        self._entered = threading.Semaphore(0)
        self._owner: threading.Thread | None = None

    def load(self) -> None:
        self._owner = threading.current_thread()
        assert self._open.wait(MAX_WAIT_S)
        if self.load_error is not None:
            raise self.load_error

    def read(self, tasks: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        assert threading.current_thread() is self._owner, "another thread than load's called read"
        if tasks[0].image.size != TRIAL.image.size:
            self.batches.append(list(tasks))
            self._entered.release()
            assert self._open.wait(MAX_WAIT_S)
        return [
            GenerationOutput(self.respond(task), self.log_probability, self.complete)
            for task in tasks
        ]

    @property
    def batch_sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    def hold(self) -> None:
        """Block `load` and `read` from now on."""
        self._open.clear()

    def release(self) -> None:
        """Let `load` and `read` go on."""
        self._open.set()

    def wait_until_reading(self) -> None:
        """Wait for one more call of `read`."""
        assert self._entered.acquire(timeout=MAX_WAIT_S)


def image_bytes(width: int = 120, height: int = 40, image_format: str = "PNG") -> bytes:
    """Return a small image file; the fake backend reads it as `w` and its width."""
    file = io.BytesIO()
    image = Image.new("RGB", (width, height), "white")
    # A blank image is not shown to a model.
    image.paste("black", (width // 3, height // 3, width * 2 // 3, height * 2 // 3))
    image.save(file, image_format)
    return file.getvalue()


def create_quick_app() -> Flask:
    """Return an application that reads at once; for live servers."""
    return create_app(backend=FakeBackend())


def create_steady_app() -> Flask:
    """Return an application that takes 100 ms for each image."""

    def respond(task: GenerationRequest) -> str:
        time.sleep(0.1)
        return width_of(task)

    return create_app(backend=FakeBackend(respond))


def create_short_deadline_app() -> Flask:
    """Return an application under which clients have to send quickly."""
    # Imported here: only gunicorn's worker has it.
    from qwen_captcha.server import connection

    connection.IDLE_S = 0.2
    return create_quick_app()


def create_blocking_app(folder: str) -> Flask:
    """Return an application that stops in the middle of reading an image of width 500.

    It opens the pipe `reading` in the folder when it has begun, and goes on when the pipe
    `go-on` is opened from the other side.
    """

    def respond(task: GenerationRequest) -> str:
        if task.image.width == 500:
            Path(folder, "reading").open("w").close()
            Path(folder, "go-on").open().close()
        return width_of(task)

    return create_app(backend=FakeBackend(respond))


def create_breaking_app() -> Flask:
    """Return an application whose model fails with images of width 500 and reads all others."""
    health_monitor.INTERVAL_S = 0.1

    def respond(task: GenerationRequest) -> str:
        if task.image.width == 500:
            raise ValueError("non-finite logits")
        return width_of(task)

    return create_app(backend=FakeBackend(respond))


def create_unloadable_app() -> Flask:
    """Return an application whose model turns out to be unusable when it is loaded."""
    return create_app(backend=FakeBackend(load_error=ModelLoadError("the weights are torn")))
