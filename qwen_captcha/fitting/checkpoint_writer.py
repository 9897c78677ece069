"""Write a fitted checkpoint to disk.

The folder appears with all its files, and each file is replaced as a whole, so that the checkpoint
is complete at any time, even if the process is killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.onnx.export import export_if_possible
from qwen_captcha.checkpoints.files import FACTS
from qwen_captcha.fitting.errors import FittingError
from qwen_captcha.fitting.rehearsal import REHEARSAL

# Of the base, beside what the model and the processor write.
_COPIED = (FACTS, REHEARSAL)


class CheckpointWriter:
    """Writes one checkpoint folder.

    Args:
        out: The folder; it must not be there, or be empty.
        base: Folder of the checkpoint that was fitted.
        processor: With all characters.
    """

    def __init__(self, out: Path, base: Path, processor: Qwen2VLProcessor) -> None:
        self._out = out
        self._base = base
        self._processor = processor

    def write_weights(self, model: Qwen2VLForConditionalGeneration) -> None:
        """Write the whole checkpoint, or replace its weights.

        Raises:
            FittingError: It cannot be written; what was there is still there.
        """
        with _folder_beside(self._out) as partial:
            _in_bf16(model).save_pretrained(partial)
            self._processor.save_pretrained(partial)
            for name in _COPIED:
                if (self._base / name).is_file():
                    shutil.copyfile(self._base / name, partial / name)
            export_if_possible(partial)
            self._place(partial)

    def _place(self, partial: Path) -> None:
        if self._out.is_dir():
            _replace_files(partial, self._out)
        else:
            partial.rename(self._out)


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write text files, given by name, into a checkpoint, each as a whole.

    Raises:
        FittingError: They cannot be written.
    """
    with _folder_beside(folder) as partial:
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        _replace_files(partial, folder)


def _replace_files(source: Path, target: Path) -> None:
    for file in [path for path in source.rglob("*") if path.is_file()]:
        place = target / file.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        os.replace(file, place)


@contextmanager
def _folder_beside(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside another one; it is gone at the end.

    Raises:
        FittingError: What is written into it cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise FittingError(f"{folder} cannot be written: {reason}.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_out(out: Path) -> None:
    """Refuse a place where no checkpoint folder can be made.

    Raises:
        FittingError: Something is there already.
    """
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    if out.exists():
        raise FittingError(f"{out} is there already: name a new folder, or remove it.")


def _in_bf16(model: Qwen2VLForConditionalGeneration) -> Qwen2VLForConditionalGeneration:
    if model.dtype == torch.bfloat16:
        return model
    half = Qwen2VLForConditionalGeneration(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.generation_config = model.generation_config
    return half
