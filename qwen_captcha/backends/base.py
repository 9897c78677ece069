"""The protocol of backends, importable without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qwen_captcha.recognition.reading import Capabilities, GenerationOutput, GenerationRequest


@dataclass(frozen=True, slots=True)
class RemoteEngine:
    """The use of an engine in another process.

    Attributes:
        concurrency: Maximum threads that call `read` at the same time, with one request each: the
            engine forms batches itself.
        probe: Raises CaptchaServiceError if the engine does not work.
        describe: Returns the fields of the engine in the reply of `/health`.
    """

    concurrency: int
    probe: Callable[[], None]
    describe: Callable[[], dict[str, object]]


class Backend(Protocol):
    """An engine. One thread calls `load`, then the same thread alone calls `read`.

    With `remote`, other threads call `read` too.
    """

    @property
    def name(self) -> str:
        """The name of the engine in the settings: `torch`, `onnx`, `openai` or `ppocr`."""

    @property
    def model_name(self) -> str:
        """Hub name, folder name or `bundled`, as `/health` reports it. Known before `load`."""

    @property
    def device(self) -> str:
        """`cuda` or `cpu` (or `remote`). Known before `load`."""

    @property
    def gpu_available(self) -> bool:
        """Whether this process can use a GPU. Known before `load`."""

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the model. Valid after `load`."""

    @property
    def remote(self) -> RemoteEngine | None:
        """The use of an engine in another process, None for a model in this one."""

    def load(self) -> None:
        """Load the model.

        Raises:
            ModelLoadError: The model cannot be loaded; one line with the cause and the remedy.
        """

    def read(self, requests: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        """Read a batch; return one output for each request, in order.

        Raises:
            MemoryError: The batch does not fit; the caller may try a smaller one.
            Exception: Any other failure, of the whole batch.
        """
