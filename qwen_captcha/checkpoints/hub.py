"""Hugging Face's hub and its cache on this machine.

Only `download` uses the network, and every error is one line with the way to fix it.
huggingface_hub is imported where it is needed: its import takes as long as the rest of a start with
ONNX Runtime.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from qwen_captcha.errors import ModelLoadError

HUB_HOST = "huggingface.co"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_name(checkpoint: str) -> bool:
    """Return whether `checkpoint` is `owner/name` on the hub and not a folder."""
    return _HUB_NAME.fullmatch(checkpoint) is not None and not Path(checkpoint).is_dir()


def cached_folder(repo_id: str) -> Path | None:
    """Return the cached snapshot of a hub name's main revision, None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo_id, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def is_offline() -> bool:
    """Return whether HF_HUB_OFFLINE forbids downloads."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def download(repo_id: str, patterns: Sequence[str]) -> Path:
    """Download files of a hub name that are not cached, with progress bars; return their folder.

    Raises:
        ModelLoadError: Downloads are forbidden, the hub cannot be reached or has no such name.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # `HfHubHTTPError` inherits from its HTTP library's base class, which is no OSError.
    bases: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
    failures: tuple[type[Exception], ...] = (OSError, HFValidationError, *bases)
    if is_offline():
        raise ModelLoadError(
            f"{repo_id} is not in the local cache and HF_HUB_OFFLINE forbids downloading it. "
            f"{how_to_get(repo_id)}"
        )
    if urlsplit(constants.ENDPOINT).hostname != HUB_HOST:
        constants.HF_HUB_DISABLE_XET = True  # a mirror has no Xet storage
    try:
        return Path(snapshot_download(repo_id, allow_patterns=list(patterns)))
    except failures as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise ModelLoadError(
            f"{repo_id} cannot be downloaded: {reason[0].rstrip('.')}. {how_to_get(repo_id)}"
        ) from error


def how_to_get(checkpoint: str) -> str:
    """Return the sentence about getting a checkpoint, or serving another one."""
    if is_hub_name(checkpoint):
        command = f"hf download {checkpoint}"
    else:
        command = f"hf download NAME --local-dir {checkpoint}"
    return (
        f"Run `{command}` (where huggingface.co is out of reach, with "
        "HF_ENDPOINT=https://hf-mirror.com and HF_HUB_DISABLE_XET=1), or set QWEN_MODEL=bundled."
    )
