"""A model in this process as a reader, without HTTP.

It is loaded like in the service, without a cache. The model's thread ends with the context.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from evaluation.accuracy.readers.base import ReaderError, Reply
from evaluation.services.client import Answer
from qwen_captcha.backends.base import Backend
from qwen_captcha.backends.factory import create_backend, create_second_backend
from qwen_captcha.errors import CaptchaServiceError, InvalidOption, ModelLoadError
from qwen_captcha.recognition.options import Options, parse_options
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import Settings, SettingsError, settings_from_environment

MAX_WAIT_S = 600.0  # A 2B checkpoint from a cold disk, or read on a CPU behind a queue.


class ModelReader:
    """A `CaptchaService` of this process."""

    def __init__(self, service: CaptchaService, options: Options) -> None:
        self.name = service.backend.model_name
        if service.cascade is not None:
            self.name += f" + {service.cascade.second.backend.model_name}"
        self._service = service
        self._options = options

    def read(self, image: bytes, content_type: str, kind: str) -> Reply:
        """Read one image; threads that read at the same time share batches.

        Raises:
            ReaderError: The service rejects the options, or accepts no images now.
        """
        start = time.perf_counter()
        deadline = self._service.monotonic() + MAX_WAIT_S
        try:
            [found] = self._service.recognize_many([image], self._options, deadline)
        except CaptchaServiceError as error:
            raise ReaderError(error.message) from error
        latency_s = time.perf_counter() - start
        answer = Answer(
            text=found.text,
            confidence=found.confidence,
            success=found.success,
            raw_response=found.raw_response,
            error_type=found.error_type,
            warnings=found.warnings,
        )
        return Reply(answer, latency_s)


@contextmanager
def model_reader(model: str, options: Mapping[str, str]) -> Iterator[ModelReader]:
    """Load a model.

    Args:
        model: `bundled`, a folder or a hub name; other settings come from the environment.
        options: Request options of every image.

    Raises:
        ReaderError: An option or a setting is invalid, or the model cannot be loaded.
    """
    try:
        parsed = parse_options(options)
        settings = replace(settings_from_environment(), qwen_model=model)
        backend = create_backend(settings)
        second = create_second_backend(settings)
    except (InvalidOption, SettingsError, ModelLoadError) as error:
        raise ReaderError(str(error)) from error
    with loaded_reader(backend, settings, parsed, second) as reader:
        yield reader


@contextmanager
def loaded_reader(
    backend: Backend, settings: Settings, options: Options, second: Backend | None = None
) -> Iterator[ModelReader]:
    """Load a backend, and a second one if it is given, in a new service.

    Raises:
        ReaderError: The model cannot be loaded.
    """
    failures: list[Exception] = []
    service = CaptchaService(backend, replace(settings, cache_size=0), second=second)
    service.start(failures.append)
    try:
        if not service.wait_until_loaded(MAX_WAIT_S) or failures:
            raise ReaderError(f"The model cannot be loaded: {(*failures, 'it takes too long')[0]}")
        if service.cascade is not None:
            service.cascade.wait_until_loaded()
        yield ModelReader(service, options)
    finally:
        service.drain(MAX_WAIT_S)
