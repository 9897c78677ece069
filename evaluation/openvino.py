"""Compare OpenVINO GenAI with PyTorch in bf16 on a CPU, on a Qwen2-VL of the published layout.

    python -m evaluation.openvino /tmp/shape /tmp/int4

docs/engines.md describes how the two folders are made. The package `openvino-genai` is needed
beside the project's own. Both engines are loaded, each in its process, and read in turns, so that
other work on the machine slows down both. Processor time excludes such work.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np

from evaluation.load.machine import peak_resident_bytes
from evaluation.published import shape
from evaluation.published.shape import PROMPT, TOKENS
from qwen_captcha.backends.hardware import GIB, usable_cores
from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend
from qwen_captcha.images.resize import size_shown
from qwen_captcha.recognition.reading import GenerationRequest

PIXELS = {"min_pixels": shape.MIN_PIXELS, "max_pixels": shape.MAX_PIXELS}
# fp32 does not fit into it, so that the 2B is loaded in bf16.
FREE_GIB = 8
# In the process of an engine: a function that reads one captcha with a number of tokens.
_loaded: list[Callable[[int], object]] = []


@dataclass(frozen=True, slots=True)
class Cost:
    """One captcha: seconds, seconds of processor time, and the process's peak memory."""

    wall_s: float
    processor_s: float
    peak_bytes: int


def load_torch(folder: Path) -> None:
    """Load a checkpoint as the service does."""
    backend = PyTorchBackend(str(folder), model_name=folder.name, use_gpu=False, **PIXELS)
    with shape.assumed_memory(FREE_GIB):
        backend.load()
    image = shape.draw_captcha("1234")
    _loaded.append(lambda tokens: backend.read([GenerationRequest(image, PROMPT, tokens)]))


def load_openvino(folder: Path) -> None:
    """Load an exported checkpoint; its image is resized as in the service."""
    import openvino
    import openvino_genai

    pipeline = openvino_genai.VLMPipeline(folder, "CPU", INFERENCE_NUM_THREADS=usable_cores())
    image = shape.draw_captcha("1234")
    pixels = np.asarray(image.resize(size_shown(image.size, **PIXELS)))[None]
    options = {"images": [openvino.Tensor(pixels)], "do_sample": False, "ignore_eos": True}
    _loaded.append(lambda tokens: pipeline.generate(PROMPT, max_new_tokens=tokens, **options))


def read_captcha(tokens: int) -> Cost:
    """Read with the engine of this process."""
    start_s, processor_s = time.perf_counter(), time.process_time()
    _loaded[0](tokens)
    taken = time.perf_counter() - start_s, time.process_time() - processor_s
    return Cost(*taken, peak_resident_bytes(os.getpid()) or 0)


def _ask(pool: ProcessPoolExecutor, tokens: int) -> Cost:
    return pool.submit(read_captcha, tokens).result()


def by_turns(read: Sequence[Callable[[int], Cost]], rounds: int) -> list[dict[int, list[Cost]]]:
    """Return each engine's costs by the number of tokens, without those of the first round."""
    costs: list[dict[int, list[Cost]]] = [{1: [], TOKENS: []} for _ in read]
    for _ in range(rounds):
        for tokens in (1, TOKENS):
            for engine, known in zip(read, costs, strict=True):
                known[tokens].append(engine(tokens))
    return [{tokens: known[tokens][1:] for tokens in known} for known in costs]


def row(costs: Mapping[int, Sequence[Cost]], disk_bytes: int) -> str:
    """Return an engine's figures: medians, and the largest peak."""
    first_s = median(cost.processor_s for cost in costs[1])
    captcha_s = median(cost.processor_s for cost in costs[TOKENS])
    wall_s = median(cost.wall_s for cost in costs[TOKENS])
    peak = max(cost.peak_bytes for cost in costs[TOKENS])
    memory = f"{peak / GIB:.2f} | {disk_bytes / GIB:.2f}"
    return f"{first_s:.2f} | {captcha_s:.2f} | {wall_s:.2f} | {memory}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("exported", type=Path)
    parser.add_argument("--rounds", type=int, default=6, help="the first is not counted (6)")
    options = parser.parse_args(arguments)
    spawn = get_context("spawn")
    engines = ((load_torch, options.checkpoint), (load_openvino, options.exported))
    pools = [ProcessPoolExecutor(1, spawn, load, (folder,)) for load, folder in engines]
    costs = by_turns([partial(_ask, pool) for pool in pools], options.rounds)
    print("folder | first token, s | captcha, s | wall, s | peak, GiB | disk, GiB")
    for (_, folder), known in zip(engines, costs, strict=True):
        print(folder.name, "|", row(known, sum(file.stat().st_size for file in folder.iterdir())))


if __name__ == "__main__":
    main()
