"""Create the backend of the settings, checked but not loaded.

Errors that can be found before the model is loaded are raised here. Neither torch nor transformers
is imported.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

from qwen_captcha.backends.base import Backend
from qwen_captcha.backends.hardware import count_gpus
from qwen_captcha.backends.qwen2vl.onnx.graph_files import has_graphs
from qwen_captcha.checkpoints.resolve import BUNDLED, ResolvedModel, resolve_model
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.settings import Settings, SettingsError, set_unset_variables

log = logging.getLogger(__name__)


INSTALL_PYTORCH = "pip install -r requirements_qwen.txt (or pip install 'qwen-captcha[qwen]')"


# Otherwise ONNX Runtime sends usage data to Microsoft, and writes an identifier to the home folder.
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}


def create_backend(settings: Settings) -> Backend:
    """Return the backend of the settings, checked but not loaded.

    With `QWEN_BACKEND=auto`, ONNX Runtime runs a checkpoint with graphs, unless PyTorch is
    installed and a GPU can be used. PyTorch runs all other checkpoints.

    Raises:
        ModelLoadError: There is no such checkpoint, or it cannot be used here.
        SettingsError: Several workers would share a GPU.
    """
    set_unset_variables(NO_TELEMETRY)
    if settings.qwen_backend == "openai":
        return remote_backend(settings, settings.qwen_model)
    return _local_backend(settings, settings.qwen_model, settings.qwen_backend)


def create_second_backend(settings: Settings) -> Backend | None:
    """Return the backend of the second reader, checked but not loaded; None without `QWEN_CASCADE`.

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
    return _local_backend(settings, settings.qwen_cascade, "auto")


def _local_backend(settings: Settings, model_name: str, runtime: str) -> Backend:
    """Return the backend of a checkpoint in this process, for a value of `QWEN_BACKEND`."""
    has_pytorch = find_spec("torch") is not None
    if not model_name and not has_pytorch:
        log.info("PyTorch is not installed: the small bundled checkpoint is served.")
    model = resolve_model(model_name or ("" if has_pytorch else BUNDLED))
    on_gpu = has_pytorch and settings.use_gpu and count_gpus() > 0
    with_graphs = has_graphs(Path(model.checkpoint)) and not on_gpu
    if runtime == "onnx" or (runtime == "auto" and with_graphs):
        return _onnx_backend(settings, model)
    if not has_pytorch:
        raise ModelLoadError(
            f"{model.model_name} needs PyTorch, which is not installed. Install it: "
            f"{INSTALL_PYTORCH}. Or serve a checkpoint with graphs for ONNX Runtime: the bundled "
            "one, or a folder after `qwen-captcha export FOLDER` on another machine."
        )
    return _pytorch_backend(settings, model)


def _onnx_backend(settings: Settings, model: ResolvedModel) -> Backend:
    from qwen_captcha.backends.qwen2vl.onnx.backend import OnnxBackend

    backend = OnnxBackend(
        model.checkpoint,
        model_name=model.model_name,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        workers=settings.workers,
    )
    backend.check()
    return backend


def _pytorch_backend(settings: Settings, model: ResolvedModel) -> Backend:
    from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend

    if settings.workers > 1 and settings.use_gpu and count_gpus() > 0:
        raise SettingsError(
            f"WORKERS={settings.workers} cannot be used: it must be 1 on a GPU. Each worker would "
            "load another copy of the model, and only one would use the GPU at a time."
        )
    backend = PyTorchBackend(
        model.checkpoint,
        model_name=model.model_name,
        use_gpu=settings.use_gpu,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
        workers=settings.workers,
    )
    backend.check()
    return backend


def remote_backend(settings: Settings, model_name: str) -> Backend:
    """Return the backend that reads with a model on the server of the settings.

    If the checkpoint is also in a folder on this machine, its files define the capabilities of the
    model and its range of pixels.
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
