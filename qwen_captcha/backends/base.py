"""What the service asks of an engine, and what an engine says about itself.

Responsible for: the `Backend` protocol and the values that cross it. Invariant: everything here is
plain data, importable without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from qwen_captcha.recognition.reading import Capabilities, GenerationOutput, GenerationRequest


@dataclass(frozen=True, slots=True)
class RemoteEngine:
    """How an engine in another process is used.

    Attributes:
        concurrency: How many threads may call `read` at once, with one request each: such an engine
            forms batches itself.
        probe: Finds out whether the engine still works; raises CaptchaServiceError where not.
        describe: Returns what `/health` says about the engine.
    """

    concurrency: int
    probe: Callable[[], None]
    describe: Callable[[], dict[str, object]]


class Backend(Protocol):
    """An engine. One thread calls `load`, then the same thread alone calls `read`.

    Only where `remote` says so, other threads call `read` too.
    """

    @property
    def name(self) -> str:
        """What runs the model, as the settings name it: `torch`, `onnx`, `openai` or `ppocr`."""

    @property
    def model_name(self) -> str:
        """Hub name, folder name or `bundled`, as `/health` reports it. Known before `load`."""

    @property
    def device(self) -> str:
        """`cuda` or `cpu` (or `remote`). Known before `load`."""

    @property
    def gpu_available(self) -> bool:
        """Whether this process sees a GPU. Known before `load`."""

    @property
    def capabilities(self) -> Capabilities:
        """What the model can do. Valid after `load`."""

    @property
    def remote(self) -> RemoteEngine | None:
        """How the engine is used if it is another process, None for a model in this one."""

    def load(self) -> None:
        """Load and warm up the model.

        Raises:
            ModelLoadError: With one line that says what is wrong and what to do.
        """

    def read(self, requests: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        """Read a batch; the result has one output a request, in order.

        Raises:
            MemoryError: The batch does not fit; the caller may try a smaller one.
            Exception: Whatever else went wrong, for the whole batch.
        """
