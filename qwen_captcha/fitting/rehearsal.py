"""The rehearsal set of a checkpoint: captchas of its training, which prevent forgetting.

`rehearsal.tar`, beside the weights, holds images and a `labels.tsv` with file and text between
tabs.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from qwen_captcha.errors import CaptchaServiceError
from qwen_captcha.fitting.errors import FittingError
from qwen_captcha.fitting.examples import Example
from qwen_captcha.images.decode import ImageLimits, decode_image
from qwen_captcha.samples import LABELS_FILE

REHEARSAL = "rehearsal.tar"
_LIMITS = ImageLimits(max_image_pixels=1_000_000, max_frames=1)


def read_rehearsal(checkpoint: Path) -> list[Example]:
    """Return the rehearsal set of a checkpoint, empty where it has none.

    Raises:
        FittingError: The file is damaged.
    """
    path = checkpoint / REHEARSAL
    if not path.is_file():
        return []
    try:
        with tarfile.open(path) as archive:
            files = {
                member.name: content.read()
                for member in archive
                if (content := archive.extractfile(member)) is not None
            }
        rows = files[LABELS_FILE].decode("utf-8").splitlines()
        return [_example(row, files) for row in rows]
    except (tarfile.TarError, OSError, KeyError, ValueError, CaptchaServiceError) as error:
        raise FittingError(f"{REHEARSAL} of {checkpoint.name} is damaged: {error}") from error


def _example(row: str, files: dict[str, bytes]) -> Example:
    name, text = row.split("\t")
    return Example(name, decode_image(files[name], _LIMITS), text, text)
