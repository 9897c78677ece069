"""The files of a checkpoint in a folder, in the cache or on the hub.

Completeness, architecture and size are checked, and `captcha.json` is read. Nothing here needs
torch or reads a weight. Every error is one line with the way to fix it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen_captcha.checkpoints import hub
from qwen_captcha.checkpoints.safetensors_header import (
    DamagedWeightsError,
    Weights,
    expected_weights,
    measure_weights,
)
from qwen_captcha.errors import ModelLoadError

ARCHITECTURE = "qwen2_vl"
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE_WEIGHTS = "model.safetensors"
FACTS = "captcha.json"
# Each group: at least one of these files. Newer and older versions of transformers write others.
PROCESSOR_FILES = (
    ("preprocessor_config.json", "processor_config.json"),
    ("tokenizer.json", "vocab.json"),
)
DESCRIPTION_PATTERNS = (CONFIG, INDEX)
# No pickled weights: they could run code.
CHECKPOINT_PATTERNS = ("*.json", "*.txt", "*.jinja", "*.safetensors")


class HalfDownloadedError(ModelLoadError):
    """Files of a checkpoint are missing or cut short."""


@dataclass(frozen=True, slots=True)
class View:
    """A way to show an image to the model.

    Attributes:
        stretch: Horizontal scale, after the crop.
        pixel_range: As in `CaptchaFacts`; None for that of the checkpoint.
    """

    stretch: float
    pixel_range: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Views:
    """The views in which an image is read, until the model is sure.

    Attributes:
        sure: Probability of the most probable output from which no further view is read.
        views: In order, at least one.
    """

    sure: float
    views: tuple[View, ...]


@dataclass(frozen=True, slots=True)
class CaptchaFacts:
    """The content of a checkpoint's `captcha.json`; the defaults are a general model's.

    Attributes:
        follows_prompts: It obeys a free instruction.
        answers_questions: It can answer what a captcha asks instead of transcribing it.
        pixel_range: The minimum and maximum pixels of an image that it was trained on, or None
            where the settings decide.
        crops_to_text: It was trained on what `images.crop` leaves of an image.
        stretch: Horizontal scale that it was trained on, after the crop.
        views: None where images are read once.
    """

    follows_prompts: bool = True
    answers_questions: bool = True
    pixel_range: tuple[int, int] | None = None
    crops_to_text: bool = False
    stretch: float = 1.0
    views: Views | None = None


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """A complete Qwen2-VL checkpoint on this machine."""

    folder: Path
    weights: Weights
    facts: CaptchaFacts


def is_complete_in_cache(repo_id: str) -> bool:
    """Return whether every file that serving `repo_id` needs is in the local cache."""
    folder = hub.cached_folder(repo_id)
    if folder is None:
        return False
    try:
        inspect_checkpoint(folder, repo_id)
    except ModelLoadError:
        return False
    return True


def find_checkpoint(checkpoint: str) -> CheckpointFiles | None:
    """Return the facts about a checkpoint on this machine.

    Args:
        checkpoint: Folder or hub name.

    Returns:
        None for a hub name that has to be downloaded, or completed, and may be.

    Raises:
        ModelLoadError: It is no folder and no hub name, not complete and not to be
            downloaded, or not of Qwen2-VL's architecture.
    """
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        return inspect_checkpoint(folder, checkpoint)
    if not hub.is_hub_name(checkpoint):
        raise ModelLoadError(
            f"{checkpoint} is neither a folder nor a hub name such as Qwen/Qwen2-VL-2B-Instruct. "
            "Set QWEN_MODEL to one of these, or to `bundled`."
        )
    cached = hub.cached_folder(checkpoint)
    if cached is None:
        return None
    try:
        return inspect_checkpoint(cached, checkpoint)
    except HalfDownloadedError:
        if hub.is_offline():
            raise
        return None


def download_description(repo_id: str) -> Path:
    """Download the files with a hub name's architecture and size, a few kB; return their folder.

    Raises:
        ModelLoadError: There is no such name, or the hub cannot be reached.
    """
    return hub.download(repo_id, DESCRIPTION_PATTERNS)


def download_checkpoint(repo_id: str) -> CheckpointFiles:
    """Download a hub name, or what is missing of it, with progress bars.

    Raises:
        ModelLoadError: The download failed, or what the hub has cannot be served.
    """
    return inspect_checkpoint(hub.download(repo_id, CHECKPOINT_PATTERNS), repo_id)


def inspect_checkpoint(folder: Path, name: str) -> CheckpointFiles:
    """Return the facts in the files of a checkpoint.

    Args:
        folder: Where the files are.
        name: What the user calls the checkpoint.

    Raises:
        HalfDownloadedError: It is not complete.
        ModelLoadError: It is not of Qwen2-VL's architecture.
    """
    check_architecture(folder, name)
    missing = [" or ".join(group) for group in PROCESSOR_FILES if not _any_exists(folder, group)]
    missing += _missing_weights(folder, name)
    if missing:
        raise _half_downloaded(name, f"{', '.join(missing)} missing")
    try:
        weights = measure_weights([folder / shard for shard in _weight_files(folder, name)])
    except DamagedWeightsError as error:
        raise _half_downloaded(name, str(error)) from error
    return CheckpointFiles(folder, weights, read_facts(folder, name))


def check_architecture(folder: Path, name: str) -> None:
    """Refuse a checkpoint of another architecture.

    Raises:
        ModelLoadError: It is another one, or `config.json` does not name it.
    """
    architecture = _read_json(folder / CONFIG, name).get("model_type")
    if architecture != ARCHITECTURE:
        raise ModelLoadError(
            f"{name} is a checkpoint of the architecture {architecture}, not {ARCHITECTURE}. "
            "Set QWEN_MODEL to a Qwen2-VL checkpoint such as Qwen/Qwen2-VL-2B-Instruct."
        )


def described_weights(folder: Path, name: str) -> Weights | None:
    """Return the size of weights that are not here yet, None where the description has none."""
    if not (folder / INDEX).is_file():
        return None
    return expected_weights(_read_json(folder / CONFIG, name), _read_json(folder / INDEX, name))


def _weight_files(folder: Path, name: str) -> list[str]:
    """Return the names of the files that hold the weights, there or not."""
    if not (folder / INDEX).is_file():
        return [SINGLE_WEIGHTS]
    weight_map = _read_json(folder / INDEX, name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{INDEX} of {name} names no weights. {hub.how_to_get(name)}")
    return sorted({str(shard) for shard in weight_map.values()})


def _missing_weights(folder: Path, name: str) -> list[str]:
    # A link of the cache whose target is not there yet counts as missing.
    return [shard for shard in _weight_files(folder, name) if not (folder / shard).is_file()]


def _any_exists(folder: Path, names: Sequence[str]) -> bool:
    return any((folder / name).is_file() for name in names)


def _half_downloaded(name: str, what: str) -> HalfDownloadedError:
    return HalfDownloadedError(f"{name} is only half downloaded: {what}. {hub.how_to_get(name)}")


def read_facts(folder: Path, name: str) -> CaptchaFacts:
    """Return the content of `captcha.json`, a general model's facts where there is none."""
    if not (folder / FACTS).is_file():
        return CaptchaFacts()
    facts = _read_json(folder / FACTS, name)
    try:
        return CaptchaFacts(
            follows_prompts=bool(facts["follows_prompts"]),
            answers_questions=bool(facts["answers_questions"]),
            pixel_range=_read_pixel_range(facts["pixel_range"]),
            crops_to_text=bool(facts.get("crops_to_text", False)),
            stretch=_read_stretch(facts.get("stretch", 1)),
            views=_read_views(facts.get("views")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelLoadError(
            f"{FACTS} of {name} must hold follows_prompts, answers_questions and pixel_range; "
            "stretch, if there, is between 0.5 and 4, and views has sure and views."
        ) from error


def _read_stretch(value: Any) -> float:
    stretch = float(value)
    if not 0.5 <= stretch <= 4:
        raise ValueError(value)
    return stretch


def _read_pixel_range(value: Any) -> tuple[int, int]:
    low, high = (int(pixels) for pixels in value)
    if not 0 < low <= high:
        raise ValueError(value)
    return low, high


def _read_views(content: Any) -> Views | None:
    if content is None:
        return None
    sure = float(content["sure"])
    views = tuple(_read_view(view) for view in content["views"])
    if not (0 < sure <= 1 and views):
        raise ValueError(content)
    return Views(sure, views)


def _read_view(view: Any) -> View:
    own = view.get("pixel_range")
    return View(_read_stretch(view["stretch"]), None if own is None else _read_pixel_range(own))


def _read_json(path: Path, name: str) -> dict[str, Any]:
    """Return a JSON object of a checkpoint."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _half_downloaded(name, f"{path.name} missing") from error
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{path.name} of {name} cannot be read. {hub.how_to_get(name)}"
        ) from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path.name} of {name} is not a JSON object. {hub.how_to_get(name)}")
    return content
