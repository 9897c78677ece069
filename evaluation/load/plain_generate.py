"""Plain `generate` of transformers, one image at a time, as the reference for speed.

Chat template, `process_vision_info`, processor and `generate`, without batches, queue and HTTP:
the measurement is an upper bound. Checkpoint, prompt, crop, stretch, pixel range, number type and
greedy choice are those of the service; an image is read in one view.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import torch
from PIL import Image
from qwen_vl_utils import process_vision_info
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from qwen_captcha.backends.hardware import cpu_flags
from qwen_captcha.backends.qwen2vl.pytorch.loading import visible_gpus
from qwen_captcha.backends.qwen2vl.pytorch.placement import Precision, plan_for_cpu
from qwen_captcha.checkpoints.files import CheckpointFiles, find_checkpoint
from qwen_captcha.checkpoints.resolve import resolve_model
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.images.crop import crop_to_text
from qwen_captcha.images.resize import stretched
from qwen_captcha.recognition.options import Kind
from qwen_captcha.recognition.prompts import DEFAULT_PROMPTS
from qwen_captcha.settings import Settings


@dataclass(frozen=True, slots=True)
class PlainSettings:
    """The settings that plain `generate` and the service share.

    Attributes:
        checkpoint: Folder of the checkpoint.
        prompt: The whole instruction.
        max_new_tokens: Upper bound of generated tokens.
        min_pixels: Lower bound of an image's pixels after resizing.
        max_pixels: Upper bound of an image's pixels after resizing.
        precision: Number type of the weights.
        crops_to_text: Whether the model is shown only the part of an image that holds text.
        stretch: Horizontal scale of what the model is shown.
        device: `cpu` or `cuda`.
        threads: Threads that torch may use on the CPU.
    """

    checkpoint: str
    prompt: str
    max_new_tokens: int
    min_pixels: int
    max_pixels: int
    precision: Precision
    crops_to_text: bool
    stretch: float
    device: str
    threads: int


def plain_settings(settings: Settings, device: str, threads: int) -> PlainSettings:
    """Return the settings of plain `generate` that match a service on a device.

    Raises:
        ModelLoadError: The checkpoint is not complete on this machine.
    """
    checkpoint, name = resolve_model(settings.qwen_model)
    files = find_checkpoint(checkpoint)
    if files is None:
        raise ModelLoadError(f"{name} is not complete on this machine.")
    low, high = files.facts.pixel_range or (settings.min_pixels, settings.max_pixels)
    return PlainSettings(
        checkpoint=str(files.folder),
        prompt=DEFAULT_PROMPTS[Kind.AUTO],
        max_new_tokens=settings.max_new_tokens,
        min_pixels=low,
        max_pixels=high,
        precision=_precision(files, name, device),
        crops_to_text=files.facts.crops_to_text,
        stretch=files.facts.stretch,
        device=device,
        threads=threads,
    )


def _precision(files: CheckpointFiles, name: str, device: str) -> Precision:
    if device == "cuda":
        every_gpu = all(gpu.computes_bf16 for gpu in visible_gpus())
        return Precision.BF16 if every_gpu else Precision.FP32
    plan = plan_for_cpu(name, files.weights, flags=cpu_flags(), available_bytes=None)
    return plan.precision


class PlainGenerate:
    """A loaded model that reads one image at a time; one thread owns it."""

    def __init__(self, settings: PlainSettings) -> None:
        torch.set_num_threads(settings.threads)
        self.settings = settings
        size = {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels}
        self._processor = AutoProcessor.from_pretrained(settings.checkpoint, size=size)
        self._model = Qwen2VLForConditionalGeneration.from_pretrained(
            settings.checkpoint, dtype=getattr(torch, settings.precision)
        )
        self._model.to(settings.device).eval()

    @torch.inference_mode()
    def read(self, data: bytes) -> str:
        """Return the output for one encoded image."""
        with Image.open(io.BytesIO(data)) as encoded:
            image = encoded.convert("RGB")
        if self.settings.crops_to_text:
            image = crop_to_text(image)
        image = stretched(image, self.settings.stretch)
        messages = [{"role": "user", "content": self._content(image)}]
        text = self._processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        images, videos = process_vision_info(messages)
        inputs = self._processor(text=[text], images=images, videos=videos, return_tensors="pt")
        inputs = inputs.to(self.settings.device)
        # `generate` of the published checkpoints samples by default.
        tokens = self._model.generate(
            **inputs,
            max_new_tokens=self.settings.max_new_tokens,
            do_sample=False,
            repetition_penalty=1.0,
        )  # (1, T)
        answer = tokens[:, inputs["input_ids"].shape[1] :]  # (1, T - prompt)
        (response,) = self._processor.batch_decode(answer, skip_special_tokens=True)
        return str(response)

    def _content(self, image: Image.Image) -> list[dict[str, object]]:
        """Return the user's turn; without a pixel range `qwen_vl_utils` uses its own minimum."""
        pixels = {
            "min_pixels": self.settings.min_pixels,
            "max_pixels": self.settings.max_pixels,
        }
        return [
            {"type": "image", "image": image, **pixels},
            {"type": "text", "text": self.settings.prompt},
        ]
