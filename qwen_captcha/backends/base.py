"""What the service asks of an engine, and what an engine says about itself.

Responsible for: the `Backend` protocol and the values that cross it. Invariant: everything here is
plain data, importable without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from qwen_captcha.calibration import Calibration
from qwen_captcha.decoding import UNRESTRICTED, DecodingConstraints


class BackendLoadError(Exception):
    """The model cannot be loaded; the message is the one line that a user reads."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a loaded model can do.

    Attributes:
        follows_prompts: It obeys a free instruction; otherwise prompts have no effect.
        answers_questions: It can answer what a captcha asks instead of transcribing it.
        crops_to_text: It is to be shown what `cropping.crop_to_text` leaves of an image.
        token_probabilities: It reports the probabilities of its tokens.
        calibration: Turns these into the probability of being right; None where there is none.
    """

    follows_prompts: bool = True
    answers_questions: bool = True
    crops_to_text: bool = False
    token_probabilities: bool = True
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class ReadingTask:
    """One image to read.

    Attributes:
        image: RGB image, any size whose aspect ratio is at most `images.MAX_ASPECT_RATIO`.
        prompt: The whole instruction for the model.
        max_new_tokens: Upper bound of generated tokens, the end token included.
        constraints: What the response may look like.
        deadline: Time of the monotonic clock at which the request that asked gives up.
    """

    image: Image.Image
    prompt: str
    max_new_tokens: int
    constraints: DecodingConstraints = UNRESTRICTED
    deadline: float = math.inf


@dataclass(frozen=True, slots=True)
class ReadToken:
    """One token of a response, or several that spell one character together.

    Attributes:
        text: Whole characters; empty for the end token.
        log_probability: Natural log of its probability among the tokens that were allowed at its
            place; where the engine can tell, of the text in either case of its letters.
    """

    text: str
    log_probability: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model said about one image.

    Attributes:
        raw_response: The text, special tokens removed, otherwise untouched.
        log_probability: Natural log of the probability of the whole token sequence, the end
            token included (the sum over the generated tokens); None where the engine gives none.
            Of all that the model could say, also where constraints did not allow all.
        complete: The model ended by itself and was not cut at `max_new_tokens`.
        tokens: What `raw_response` consists of, the end token last if there is one; empty where
            the engine tells nothing about single tokens.
        alternatives: Other readings, the most probable first, without alternatives of their own.
    """

    raw_response: str
    log_probability: float | None
    complete: bool
    tokens: tuple[ReadToken, ...] = ()
    alternatives: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True)
class RemoteEngine:
    """How an engine in another process is used.

    Attributes:
        concurrency: How many threads may call `read` at once, with one task each: such an engine
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
            BackendLoadError: With one line that says what is wrong and what to do.
        """

    def read(self, tasks: Sequence[ReadingTask]) -> list[Reading]:
        """Read a batch; the result has one reading a task, in order.

        Raises:
            MemoryError: The batch does not fit; the caller may try a smaller one.
            Exception: Whatever else went wrong, for the whole batch.
        """
