"""Resolve the setting `QWEN_MODEL` to a checkpoint.

A model that the setting names is never replaced by another one. The rule never uses the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

DEFAULT_MODEL = "Qwen/Qwen2-VL-2B-Instruct"
BUNDLED = "bundled"
BUNDLED_CHECKPOINT = Path(__file__).parent / "qwen2-vl-captcha-mini"

log = logging.getLogger(__name__)


class ResolvedModel(NamedTuple):
    """A checkpoint and the name that `/health` reports for it.

    Attributes:
        checkpoint: Folder or hub name, as `from_pretrained` takes it.
        model_name: Hub name, name of the folder, or `bundled`; never a path.
    """

    checkpoint: str
    model_name: str


def resolve_model(qwen_model: str, is_cached: Callable[[str], bool] | None = None) -> ResolvedModel:
    """Return the checkpoint that the setting `QWEN_MODEL` stands for.

    Args:
        qwen_model: Hub name, folder, `bundled`, or empty for the default model where it is
            complete in the local cache and the bundled checkpoint where it is not.
        is_cached: Whether a hub name is complete in the local cache; None asks huggingface_hub.
    """
    if not qwen_model:
        return _default_model(is_cached or _is_complete_in_cache)
    if qwen_model == BUNDLED:
        return ResolvedModel(str(BUNDLED_CHECKPOINT), BUNDLED)
    folder = Path(qwen_model).expanduser()
    if folder.is_dir():
        return ResolvedModel(str(folder), folder.resolve().name)
    return ResolvedModel(qwen_model, qwen_model)


def _default_model(is_cached: Callable[[str], bool]) -> ResolvedModel:
    """Return the 2B model where it is cached, else the bundled checkpoint, and log that."""
    if is_cached(DEFAULT_MODEL):
        return ResolvedModel(DEFAULT_MODEL, DEFAULT_MODEL)
    log.info(
        "%s is not in the local cache: the small bundled checkpoint is served. "
        "To get the larger model: hf download %s",
        DEFAULT_MODEL,
        DEFAULT_MODEL,
    )
    return ResolvedModel(str(BUNDLED_CHECKPOINT), BUNDLED)


def _is_complete_in_cache(repo_id: str) -> bool:
    """Ask huggingface_hub, which is imported only where the answer matters."""
    from qwen_captcha.checkpoints.files import is_complete_in_cache

    return is_complete_in_cache(repo_id)
