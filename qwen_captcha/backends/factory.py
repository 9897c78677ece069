"""The backend that the settings ask for, checked but not loaded.

Invariant: what can be known to be wrong before the model is loaded is raised from here. Neither
torch nor transformers is imported.
"""

from __future__ import annotations

from pathlib import Path

from qwen_captcha.backends.base import Backend
from qwen_captcha.backends.hardware import count_gpus
from qwen_captcha.checkpoints.resolve import resolve_model
from qwen_captcha.settings import Settings, SettingsError


def create_backend(settings: Settings) -> Backend:
    """Return the backend that the settings ask for, checked but not loaded.

    Raises:
        ModelLoadError: There is no such checkpoint, or it cannot be used here.
        SettingsError: Several workers would share a GPU.
    """
    if settings.qwen_backend == "openai":
        return remote_backend(settings, settings.qwen_model)
    return _local_backend(settings, settings.qwen_model)


def create_second_backend(settings: Settings) -> Backend | None:
    """Return the backend of the second reader, checked but not loaded; None where none is wanted.

    Raises:
        ModelLoadError: There is no such checkpoint, or it cannot be used here.
        SettingsError: Several workers would share a GPU.
    """
    if not settings.qwen_cascade:
        return None
    name, _, served = settings.qwen_cascade.partition(":")
    if name == "openai":
        return remote_backend(settings, served)
    if settings.qwen_cascade == "ppocr":
        from qwen_captcha.backends.ppocr.backend import PPOCRBackend

        return PPOCRBackend(workers=settings.workers)
    return _local_backend(settings, settings.qwen_cascade)


def _local_backend(settings: Settings, model: str) -> Backend:
    """Return the backend of a checkpoint in this process."""
    from qwen_captcha.backends.qwen2vl.pytorch.backend import Qwen2VLBackend

    if settings.workers > 1 and settings.use_gpu and count_gpus() > 0:
        raise SettingsError(
            f"WORKERS={settings.workers} cannot be used: it must be 1 on a GPU, where each worker "
            "would hold the model once more and they would take turns."
        )
    checkpoint, model_name = resolve_model(model)
    backend = Qwen2VLBackend(
        checkpoint,
        model_name=model_name,
        use_gpu=settings.use_gpu,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        workers=settings.workers,
    )
    backend.check()
    return backend


def remote_backend(settings: Settings, model_name: str) -> Backend:
    """Return the backend that asks the server of the settings for a model.

    A checkpoint that also lies here, where such a server got its path from, says itself what it
    can do and which range of pixels it wants.
    """
    from qwen_captcha.backends.openai.backend import OpenAIBackend
    from qwen_captcha.checkpoints.files import CaptchaFacts, read_facts

    model = resolve_model(model_name) if model_name else None
    facts = read_facts(Path(model.checkpoint), model.model_name) if model else CaptchaFacts()
    return OpenAIBackend(
        settings.openai_base_url,
        api_key=settings.openai_api_key,
        server=settings.openai_server,
        model=model,
        facts=facts,
        pixel_range=facts.pixel_range or (settings.min_pixels, settings.max_pixels),
        concurrency=settings.openai_concurrency,
    )
