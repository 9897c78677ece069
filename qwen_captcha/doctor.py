"""What would keep the service from running here, and the mend.

Responsible for: looking at Python, packages, GPU, memory, model, cache and port, each without
changing anything. Invariant: every finding that is not well names what to do.
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
from pathlib import Path

from qwen_captcha.backends import hardware
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.settings import Settings, SettingsError, settings_from_environment

MIN_PYTHON = (3, 11)
PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "qwen-vl-utils", "flask")
INSTALL = "python -m pip install -r requirements_qwen.txt"
GIB = 1024**3
# Qwen2-VL-2B in bf16 while it is downloaded.
SPACE_FOR_A_MODEL_BYTES = 6 * GIB


class State(StrEnum):
    """How a subject is."""

    WELL = "ok"
    NOTE = "note"
    WRONG = "WRONG"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found about one subject.

    Attributes:
        state: How it is.
        subject: What was looked at.
        words: What was found.
        mend: What to do, empty where all is well.
    """

    state: State
    subject: str
    words: str
    mend: str = ""


def examine(program: str) -> Iterator[Finding]:
    """Yield what is found, subject by subject.

    Args:
        program: How the command is called that can mend some of it.
    """
    yield python_finding(sys.version_info[:2])
    yield from package_findings()
    yield from torch_findings()
    yield memory_finding(hardware.available_memory_bytes())
    yield cache_finding()
    try:
        settings = settings_from_environment()
    except SettingsError as error:
        yield Finding(State.WRONG, "settings", str(error), "set the variable to what is allowed")
        return
    yield Finding(State.WELL, "settings", "all can be used")
    yield model_finding(settings, program)
    yield port_finding(settings.host, settings.port)


def python_finding(found: tuple[int, ...]) -> Finding:
    """Return whether Python is new enough."""
    words = f"{platform.python_version()} at {sys.executable}"
    if found >= MIN_PYTHON:
        return Finding(State.WELL, "Python", words)
    return Finding(State.WRONG, "Python", words, "install Python 3.11 or newer")


def package_findings() -> Iterator[Finding]:
    """Yield which packages are there."""
    missing, there = [], []
    for name in PACKAGES:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if there:
        yield Finding(State.WELL, "packages", ", ".join(there))
    if missing:
        yield Finding(State.WRONG, "packages", f"{', '.join(missing)} missing", INSTALL)


def torch_findings() -> Iterator[Finding]:
    """Yield whether torch runs, and on what."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(State.WRONG, "torch", f"it cannot be imported: {error}", INSTALL)
        return
    cores = hardware.usable_cores()
    yield Finding(State.WELL, "CPU", f"{cores} cores, bf16 {_fast_bf16(hardware.cpu_flags())}")
    gpus = hardware.count_gpus()
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        yield Finding(State.WELL, "CUDA", f"{torch.version.cuda}, {gpus} GPUs, the first {name}")
    elif gpus:
        yield Finding(
            State.WRONG,
            "CUDA",
            f"the driver knows {gpus} GPUs, but torch {torch.__version__} cannot use them",
            "install a torch with CUDA that fits the driver, or set USE_GPU=false",
        )
    else:
        yield Finding(
            State.NOTE,
            "CUDA",
            "no NVIDIA GPU: the CPU reads",
            "the bundled checkpoint is made for that; the 2B takes seconds for an image",
        )


def memory_finding(available_bytes: int | None) -> Finding:
    """Return how much memory there is; whether the model fits is the model's finding."""
    if available_bytes is None:
        return Finding(State.NOTE, "memory", "the system does not tell", "look at it yourself")
    words = f"{available_bytes / GIB:.1f} GiB free, the limits of a container included"
    if available_bytes < 2 * GIB:
        return Finding(State.WRONG, "memory", words, "the bundled checkpoint needs 2 GiB")
    return Finding(State.WELL, "memory", words)


def cache_finding() -> Finding:
    """Return whether a model can be kept in the cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    words = f"{folder}, {free / GIB:.0f} GiB free on its disk"
    if free < SPACE_FOR_A_MODEL_BYTES:
        mend = "make room, or set HF_HOME to a folder on a larger disk"
        return Finding(State.NOTE, "model cache", words, mend)
    return Finding(State.WELL, "model cache", words)


def model_finding(settings: Settings, program: str) -> Finding:
    """Return whether the model that would be served can be."""
    from qwen_captcha.backends.factory import create_backend

    try:
        backend = create_backend(settings)
    except (ModelLoadError, SettingsError) as error:
        mend = "the sentence above says what to do; QWEN_MODEL=bundled always works"
        return Finding(State.WRONG, "model", str(error), mend)
    if not settings.qwen_model and backend.model_name == "bundled":
        mend = f"{program} download Qwen/Qwen2-VL-2B-Instruct gets the larger one"
        return Finding(State.NOTE, "model", "the small bundled checkpoint", mend)
    return Finding(State.WELL, "model", f"{backend.model_name} on {backend.device}")


def port_finding(host: str, port: int) -> Finding:
    """Return whether the service could listen now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    words = f"{host}:{port}"
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        mend = "stop what listens there (perhaps this service already), or set PORT"
        return Finding(State.NOTE, "port", f"{words} cannot be used: {error.strerror}", mend)
    return Finding(State.WELL, "port", f"{words} is free")


def _fast_bf16(flags: frozenset[str]) -> str:
    return "fast" if flags & {"avx512_bf16", "amx_bf16"} else "slow"
