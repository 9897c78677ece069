"""The backend whose model runs in a server with OpenAI's protocol.

It waits until the server is ready, detects its model and software, and probes it. torch and
transformers are not imported. A model that the settings name is never replaced by another one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from qwen_captcha.backends import hardware
from qwen_captcha.backends.base import RemoteEngine
from qwen_captcha.backends.openai.chat import chat_request, output_of
from qwen_captcha.backends.openai.client import MAX_CALL_S, EngineClient
from qwen_captcha.backends.openai.servers import (
    SERVERS,
    ServerTraits,
    server_of,
)
from qwen_captcha.checkpoints.files import CaptchaFacts
from qwen_captcha.checkpoints.resolve import ResolvedModel
from qwen_captcha.errors import (
    CaptchaServiceError,
    DeadlineExceeded,
    EngineBusy,
    EngineFailed,
    EngineRejected,
    ModelLoadError,
    ServiceUnavailable,
)
from qwen_captcha.recognition.arithmetic.evaluate import looks_like_arithmetic
from qwen_captcha.recognition.constraints import UNRESTRICTED
from qwen_captcha.recognition.options import Kind
from qwen_captcha.recognition.reading import (
    Capabilities,
    GenerationOutput,
    GenerationRequest,
)
from qwen_captcha.value_parsers import Secret

RETRY_S = 2.0
PROBE_TIMEOUT_S = 5.0
TRIAL_PROMPT = "What does the image say?"
TRIAL_TOKENS = 4

log = logging.getLogger(__name__)


class OpenAIBackend:
    """A model behind a server of OpenAI's protocol; see `base.Backend`.

    Args:
        base_url: The address of the API, without `/chat/completions`.
        api_key: Key of the server; may be empty.
        server: A name of `SERVERS`, or `auto` to detect it.
        model: The model to read with; None for the only one that the server lists.
        facts: The capabilities of the model, and the range of pixels that it was trained on.
        pixel_range: Minimum and maximum pixels at which images are sent.
        concurrency: Maximum concurrent requests to the server.
        monotonic: The clock of deadlines, in seconds.
        pause: Waits for a number of seconds.
    """

    name = "openai"

    def __init__(
        self,
        base_url: str,
        *,
        api_key: Secret,
        server: str,
        model: ResolvedModel | None,
        facts: CaptchaFacts,
        pixel_range: tuple[int, int],
        concurrency: int,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._base_url = base_url
        self._server = None if server == "auto" else server
        self._model = model
        self._facts = facts
        self._pixel_range = pixel_range
        self._concurrency = concurrency
        self._monotonic = monotonic
        self._pause = pause
        # One connection more than concurrent readings, so that a probe does not wait.
        self._client = EngineClient(api_key, concurrency + 1, monotonic)
        self._listed: list[str] = []
        self._reachable = False
        # Whether the last image failed inside the engine: then a probe also reads an image.
        self._last_failed = False

    @property
    def model_name(self) -> str:
        """Name of the model in the settings, else on the server."""
        return self._model.model_name if self._model else "unknown"

    @property
    def device(self) -> str:
        """`remote`."""
        return "remote"

    @property
    def gpu_available(self) -> bool:
        """Whether this machine has a GPU; the server's own is not known."""
        return hardware.count_gpus() > 0

    @property
    def capabilities(self) -> Capabilities:
        """The capabilities of the model, as far as the server reports them."""
        return Capabilities(
            follows_prompts=self._facts.follows_prompts,
            answers_questions=self._facts.answers_questions,
            crops_to_text=self._facts.crops_to_text,
            stretch=self._facts.stretch,
            token_probabilities=self._traits.token_probabilities,
        )

    @property
    def remote(self) -> RemoteEngine:
        """The use of the server."""
        return RemoteEngine(self._concurrency, self._probe, self._describe)

    def load(self) -> None:
        """Wait until the server reads an image.

        Raises:
            ModelLoadError: The server rejects the request, or does not serve the model.
        """
        logged = ""
        while True:
            try:
                self._connect()
                break
            except EngineRejected as error:
                served = f" It lists {', '.join(self._listed)}." if self._listed else ""
                raise ModelLoadError(
                    f"The server at {self._base_url} does not read images with the model "
                    f"{self.model_name}: {error.message}{served} Check QWEN_MODEL and "
                    "OPENAI_API_KEY."
                ) from error
            except (ServiceUnavailable, DeadlineExceeded) as error:
                if error.message != logged:
                    logged = error.message
                    log.warning("Waiting for the server at %s: %s", self._base_url, logged)
                self._pause(RETRY_S)
        log.info("%s is served by %s at %s", self.model_name, self._server, self._base_url)

    def read(self, requests: Sequence[GenerationRequest]) -> list[GenerationOutput]:
        """Read images one after the other; return one output for each request, in order.

        Raises:
            CaptchaServiceError: The server did not read an image; see `EngineClient.post`.
        """
        return [self._read_one(request) for request in requests]

    def close(self) -> None:
        """Close the connections to the server."""
        self._client.close()

    @property
    def _traits(self) -> ServerTraits:
        """The extensions of the server; OpenAI's own fields only, until it is detected."""
        return SERVERS[self._server or "openai"]

    def _read_one(self, request: GenerationRequest) -> GenerationOutput:
        """Read one image, first without its constraints if it may show arithmetic.

        Charset and length do not apply to arithmetic: a grammar of digits would turn `3+5=?` into
        digits.
        """
        if request.constraints.restricts and request.constraints.kind is Kind.AUTO:
            free = self._ask(replace(request, constraints=UNRESTRICTED))
            text = free.raw_response.strip()
            settled = looks_like_arithmetic(text) or request.constraints.allows(text)
            if settled or self._traits.constraint_fields is None:
                return free
        return self._ask(request)

    def _ask(self, request: GenerationRequest) -> GenerationOutput:
        """Send one request and return the output of the model."""
        model = self._model.checkpoint if self._model else ""
        body = chat_request(request, model, self._traits, self._pixel_range)
        try:
            reply = self._client.post(f"{self._base_url}/chat/completions", body, request.deadline)
            output = output_of(reply)
        except EngineFailed:
            self._last_failed = True
            raise
        self._last_failed = False
        return output

    def _connect(self) -> None:
        """Detect the software and the model of the server, and read a test image."""
        self._list_models()
        if self._model is None:
            if len(self._listed) != 1:
                raise ModelLoadError(
                    "QWEN_MODEL is not set, and the server at "
                    f"{self._base_url} lists {', '.join(self._listed) or 'no models'}: set it to "
                    "the name of a model that it serves."
                )
            self._model = ResolvedModel(self._listed[0], _shown_name(self._listed[0]))
        self._read_trial()

    def _list_models(self) -> None:
        """Store the models of the server and, unless it is set, its software."""
        deadline = self._monotonic() + PROBE_TIMEOUT_S
        try:
            if self._server and not SERVERS[self._server].lists_models:
                self._client.get(f"{self._base_url.removesuffix('/v1')}/health", deadline)
                return
            models = self._client.get(f"{self._base_url}/models", deadline).get("data")
        except EngineRejected:
            # Some servers have no such route. A rejected key is reported by the first reading.
            models = None
        models = models if isinstance(models, list) else []
        entries = [entry for entry in models if isinstance(entry, dict) and "id" in entry]
        self._listed = [str(entry["id"]) for entry in entries]
        self._server = self._server or server_of({str(entry.get("owned_by")) for entry in entries})

    def _read_trial(self) -> None:
        """Read a blank image."""
        deadline = self._monotonic() + MAX_CALL_S
        trial = Image.new("RGB", (160, 60), "white")
        self._read_one(GenerationRequest(trial, TRIAL_PROMPT, TRIAL_TOKENS, deadline=deadline))
        self._reachable = True

    def _probe(self) -> None:
        """Check that the server works.

        Raises:
            CaptchaServiceError: It does not.
        """
        try:
            self._list_models()
            if self._last_failed:
                self._read_trial()
        except CaptchaServiceError as error:
            self._reachable = isinstance(error, EngineBusy)
            raise
        self._reachable = True

    def _describe(self) -> dict[str, object]:
        """Return the server's part of `/health`, without its address, which is private."""
        return {
            "server": self._server or "unknown",
            "reachable": self._reachable,
            "serves": [_shown_name(name) for name in self._listed],
        }


def _shown_name(name: str) -> str:
    """Return the name of a model, or the last part of a path: replies contain no paths."""
    return Path(name).name if name.startswith("/") else name
