"""Checks of this machine for running the service, each with its fix.

Python, packages, GPU, memory, model, cache and port are checked without changing anything. Every
failed check names the fix.
"""

from __future__ import annotations

import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from qwen_captcha.backends import hardware
from qwen_captcha.backends.qwen2vl.onnx.graph_files import computes_int8_fast
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.settings import Settings, SettingsError, settings_from_environment

MIN_PYTHON = (3, 11)
PACKAGES = ("flask", "numpy", "onnxruntime", "pillow", "tokenizers")
PYTORCH_PACKAGES = ("torch", "torchvision", "transformers", "accelerate")
INSTALL = "python -m pip install -r requirements_lite.txt"
INSTALL_PYTORCH = "python -m pip install -r requirements_qwen.txt"
# Of the bundled checkpoint with PyTorch; ONNX Runtime takes a quarter.
MIN_MEMORY_BYTES = 2 * hardware.GIB
# Qwen2-VL-2B in bf16 while it is downloaded.
SPACE_FOR_A_MODEL_BYTES = 6 * hardware.GIB


class State(StrEnum):
    """The state of a subject."""

    WELL = "ok"
    NOTE = "note"
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of the check of one subject.

    Attributes:
        state: How it is.
        subject: What was looked at.
        message: What was found.
        fix: What to do, empty where all is well.
    """

    state: State
    subject: str
    message: str
    fix: str = ""


def run_checks(program: str) -> Iterator[CheckResult]:
    """Yield the results, subject by subject.

    Args:
        program: How the command is called that can fix some of it.
    """
    yield check_python(sys.version_info[:2])
    yield from check_packages()
    yield check_cpu()
    with_pytorch = find_spec("torch") is not None
    if with_pytorch:
        yield from check_torch()
    else:
        yield CheckResult(
            State.NOTE,
            "torch",
            "not installed: ONNX Runtime serves the bundled checkpoint",
            f"for other models: {INSTALL_PYTORCH}",
        )
    min_bytes = MIN_MEMORY_BYTES if with_pytorch else MIN_MEMORY_BYTES // 4
    yield check_memory(hardware.available_memory_bytes(), min_bytes)
    yield check_cache()
    try:
        settings = settings_from_environment()
    except SettingsError as error:
        yield CheckResult(
            State.WRONG, "settings", str(error), "set the variable to what is allowed"
        )
        return
    yield CheckResult(State.WELL, "settings", "all can be used")
    yield check_model(settings, program)
    yield check_port(settings.host, settings.port)


def check_python(found: tuple[int, ...]) -> CheckResult:
    """Return whether Python is new enough."""
    message = f"{platform.python_version()} at {sys.executable}"
    if found >= MIN_PYTHON:
        return CheckResult(State.WELL, "Python", message)
    return CheckResult(State.WRONG, "Python", message, "install Python 3.11 or newer")


def check_packages() -> Iterator[CheckResult]:
    """Yield the results for packages; those around PyTorch are needed together."""
    groups: list[tuple[tuple[str, ...], str]] = [(PACKAGES, INSTALL)]
    if find_spec("torch") is not None:
        groups.append((PYTORCH_PACKAGES, INSTALL_PYTORCH))
    versions = {name: _version(name) for names, _ in groups for name in names}
    there = [f"{name} {number}" for name, number in versions.items() if number]
    if there:
        yield CheckResult(State.WELL, "packages", ", ".join(there))
    for names, install in groups:
        missing = [name for name in names if not versions[name]]
        if missing:
            yield CheckResult(State.WRONG, "packages", f"{', '.join(missing)} missing", install)


def _version(package: str) -> str:
    """Return the version of an installed package, empty where it is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def check_cpu() -> CheckResult:
    """Return the result for the CPU: cores and fast number types."""
    flags = hardware.cpu_flags()
    int8 = "fast" if computes_int8_fast(flags) else "slow"
    return CheckResult(
        State.WELL,
        "CPU",
        f"{hardware.usable_cores()} cores, bf16 {_fast_bf16(flags)}, int8 {int8}",
    )


def check_torch() -> Iterator[CheckResult]:
    """Yield whether torch runs, and on what."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield CheckResult(State.WRONG, "torch", f"it cannot be imported: {error}", INSTALL_PYTORCH)
        return
    gpus = hardware.count_gpus()
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        yield CheckResult(
            State.WELL, "CUDA", f"{torch.version.cuda}, {gpus} GPUs, the first {name}"
        )
    elif gpus:
        yield CheckResult(
            State.WRONG,
            "CUDA",
            f"the driver knows {gpus} GPUs, but torch {torch.__version__} cannot use them",
            "install a torch with CUDA that fits the driver, or set USE_GPU=false",
        )
    else:
        yield CheckResult(
            State.NOTE,
            "CUDA",
            "no NVIDIA GPU: the CPU reads",
            "the bundled checkpoint is made for that; the 2B takes seconds for an image",
        )


def check_memory(available_bytes: int | None, min_bytes: int = MIN_MEMORY_BYTES) -> CheckResult:
    """Return the available memory; whether the model fits is the model's result."""
    if available_bytes is None:
        return CheckResult(State.NOTE, "memory", "unknown to the system", "check the free memory")
    message = f"{hardware.in_gib(available_bytes)} free, the limits of a container included"
    if available_bytes < min_bytes:
        fix = f"the bundled checkpoint needs {min_bytes / hardware.GIB:g} GiB"
        return CheckResult(State.WRONG, "memory", message, fix)
    return CheckResult(State.WELL, "memory", message)


def check_cache() -> CheckResult:
    """Return whether a model can be kept in the cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    message = f"{folder}, {free / hardware.GIB:.0f} GiB free on its disk"
    if free < SPACE_FOR_A_MODEL_BYTES:
        fix = "make room, or set HF_HOME to a folder on a larger disk"
        return CheckResult(State.NOTE, "model cache", message, fix)
    return CheckResult(State.WELL, "model cache", message)


def check_model(settings: Settings, program: str) -> CheckResult:
    """Return whether the model that would be served can be."""
    from qwen_captcha.backends.factory import create_backend, create_second_backend

    try:
        backend = create_backend(settings)
        create_second_backend(settings)
    except (ModelLoadError, SettingsError) as error:
        fix = "follow the sentence above; QWEN_MODEL=bundled always works"
        return CheckResult(State.WRONG, "model", str(error), fix)
    if not settings.qwen_model and backend.model_name == "bundled":
        fix = f"{program} download Qwen/Qwen2-VL-2B-Instruct gets the larger one"
        return CheckResult(State.NOTE, "model", "the small bundled checkpoint", fix)
    message = f"{backend.model_name} on {backend.device}, run by {backend.name}"
    return CheckResult(State.WELL, "model", message)


def check_port(host: str, port: int) -> CheckResult:
    """Return whether the service could listen now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    message = f"{host}:{port}"
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        fix = "stop what listens there (perhaps this service already), or set PORT"
        return CheckResult(State.NOTE, "port", f"{message} cannot be used: {error.strerror}", fix)
    return CheckResult(State.WELL, "port", f"{message} is free")


def _fast_bf16(flags: frozenset[str]) -> str:
    return "fast" if flags & {"avx512_bf16", "amx_bf16"} else "slow"
