"""Measure the 2B and the 7B on the GPU of this machine, with random weights of their shapes.

    python -m evaluation.gpu

A run takes less than eight minutes on an H100. Each figure is printed as soon as it is known, and
no measurement begins after `LIMIT_S`. A run needs torch, transformers and the packages of
requirements_lite.txt, but no network and no checkpoint.

A captcha is 160 x 60 pixels and takes six tokens. The limit of a further token is the time in
which the memory delivers the decoder's weights once, at the speed of a copy on the same device.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch
from PIL import Image

from evaluation.gpu.random_model import RandomModel, random_model
from evaluation.gpu.static_decoding import StaticDecoding, as_graph
from evaluation.load.synthetic_captchas import draw_captchas
from evaluation.published.layout import SHAPE_7B, Shape
from qwen_captcha.backends.qwen2vl.arrays import Ints
from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
from qwen_captcha.backends.qwen2vl.greedy import decode_greedily
from qwen_captcha.backends.qwen2vl.language_model import Prompts
from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchModel
from qwen_captcha.recognition.reading import GenerationOutput, GenerationRequest
from qwen_captcha.scheduling.batcher import MicroBatcher
from qwen_captcha.scheduling.request_queue import RequestQueue
from qwen_captcha.settings import load_settings

PUBLISHED: Mapping[str, Shape] = {"2B": Shape(), "7B": SHAPE_7B}
# Five characters and the end.
TOKENS = 6
LIMIT_S = 420.0
GOALS = "Goals of the 2B on an H100: a captcha in 30 ms, 200 captchas a second."
MS, GB = 1e3, 1e9


@dataclass(frozen=True, slots=True)
class Effort:
    """The extent of a measurement.

    Attributes:
        repeats: Repetitions of each measurement, of which the median is printed.
        batch_sizes: Captchas in a batch.
        clients: Threads that each read one captcha after the other.
        captchas: Captchas of each client.
        copied_bytes: Bytes of the copy that measures the speed of the memory.
    """

    repeats: int = 10
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64)
    clients: int = 16
    captchas: int = 12
    copied_bytes: int = 2**31


class Measurement:
    """Measures one shape, line by line.

    Args:
        shape: Shape of the model.
        device: Device of the model.
        effort: The extent of the measurement.
        show: Called with the name and the value of each figure, as soon as it is known.
        time_left: Returns whether a further measurement may begin.
    """

    def __init__(
        self,
        shape: Shape,
        device: str,
        effort: Effort,
        show: Callable[[str, str], None],
        time_left: Callable[[], bool],
    ) -> None:
        self._device = device
        self._effort = effort
        self._show = show
        self._time_left = time_left
        # The first measurement sets these references.
        self._limit_s = self._captcha_s = math.nan
        self._random: RandomModel = random_model(shape, device)
        self._model = PyTorchModel(self._random.model)
        self._engine = Qwen2VLEngine(
            self._model, self._random.preprocessor, self._random.vocabulary
        )
        count = max(max(effort.batch_sizes), effort.clients)
        self._images = [Image.open(io.BytesIO(png)) for png, _ in draw_captchas(count)]

    def run(self) -> None:
        """Measure all."""
        steps = [self._captcha, self._batches, self._vision, self._clients]
        steps += [self._static_steps, self._compiled_steps]
        for step in steps:
            if not self._time_left():
                self._show(step.__name__.strip("_"), "left out: the time is over")
                continue
            with torch.inference_mode():
                step()

    def _captcha(self) -> None:
        """Measure one captcha against the speed of the memory."""
        speed = copy_speed(self._device, self._effort)
        weights = self._random.decoder_bytes
        self._limit_s = weights / speed
        self._show("decoder weights", f"{weights / GB:.2f} GB")
        self._show("memory, by a copy", f"{speed / GB:.0f} GB/s")
        self._show("limit of a further token", f"{self._limit_s * MS:.2f} ms")
        first_s = self._seconds(lambda: self._engine.read(self._requests(1, tokens=1)))
        captcha_s = self._seconds(lambda: self._engine.read(self._requests(1)))
        self._show("first token", f"{first_s * MS:.2f} ms")
        self._show_step("further token", (captcha_s - first_s) / (TOKENS - 1))
        self._show("captcha", f"{captcha_s * MS:.2f} ms")
        self._captcha_s = captcha_s

    def _batches(self) -> None:
        for size in self._effort.batch_sizes:
            requests = self._requests(size)
            seconds = self._seconds(partial(self._engine.read, requests))
            self._show(f"batch of {size}", f"{size / seconds:.1f} captchas/s")

    def _vision(self) -> None:
        """Measure the vision encoder alone."""
        for size in self._effort.batch_sizes:
            batch = self._random.preprocessor.prepare(self._requests(size))
            pixels = torch.from_numpy(batch.pixel_values).to(self._device)
            seconds = self._seconds(partial(self._model.vision.encode, pixels, batch.grids))
            self._show(f"vision encoder, {size} images", f"{seconds * MS:.2f} ms")

    def _clients(self) -> None:
        """Measure clients of the service's queue, each with one captcha at a time."""
        settings = load_settings({})
        queue: RequestQueue[GenerationRequest, GenerationOutput] = RequestQueue(
            max_queue_size=settings.max_queue_size,
            max_batch_size=settings.max_batch_size,
            max_queue_delay_s=settings.max_queue_delay_ms / 1000,
        )
        failures: list[Exception] = []
        MicroBatcher(queue, self._engine.read).start(lambda: self._captcha_s, failures.append)
        queue.wait_until_loaded(settings.ocr_timeout_s)

        def ask(client: int) -> list[float]:
            seconds = []
            [request] = self._requests(1, first=client)
            for _ in range(self._effort.captchas):
                start = time.monotonic()
                with queue.reserve(1, start + settings.ocr_timeout_s) as reservation:
                    reservation.submit(request).result(start + settings.ocr_timeout_s)
                seconds.append(time.monotonic() - start)
            return seconds

        clients = self._effort.clients
        start = time.monotonic()
        with ThreadPoolExecutor(clients) as threads:
            latencies = [s for seconds in threads.map(ask, range(clients)) for s in seconds]
        rate = len(latencies) / (time.monotonic() - start)
        queue.close()
        self._show(
            f"{clients} clients",
            f"{rate:.1f} captchas/s, {median(latencies) * MS:.0f} ms median",
        )

    def _static_steps(self) -> None:
        """Measure further tokens in memory of fixed size, and as a recording."""
        for rows in (1, self._effort.clients):
            decoding, agreeing = self._decoding(rows)
            self._show(f"static cache, {rows} rows", agreeing)
            self._show_step("  step by step", self._step_s(decoding, decoding.step))
            if self._device == "cuda":
                graph = as_graph(decoding, decoding.step)
                self._show_step("  CUDA graph", self._step_s(decoding, graph))

    def _compiled_steps(self) -> None:
        """Measure further tokens with steps that torch has compiled, as a CUDA graph; CUDA only."""
        if self._device != "cuda":
            return
        decoding, _ = self._decoding(1)
        compiled = torch.compile(decoding.step, dynamic=False)
        start = time.monotonic()
        try:
            graph = as_graph(decoding, compiled)
        except Exception as error:  # The compiler's errors are of many kinds; the rest is measured.
            self._show("torch.compile", f"failed: {str(error).splitlines()[0]}")
            return
        self._show("torch.compile", f"took {time.monotonic() - start:.0f} s")
        self._show_step("  CUDA graph of it", self._step_s(decoding, graph))

    def _decoding(self, rows: int) -> tuple[StaticDecoding, str]:
        """Return decoding that is ready to run, and the number of tokens equal to the loop's."""
        batch = self._random.preprocessor.prepare(self._requests(rows))
        drafted = np.empty((rows, 0), dtype=np.int64)
        prompts = Prompts.read(self._model, batch, drafted, TOKENS)
        chosen: Ints = prompts.log_probabilities.argmax(axis=-1)  # (B, 1)
        expected = decode_greedily(prompts, self._random.vocabulary, [TOKENS] * rows)
        first = torch.from_numpy(chosen).to(self._device)
        decoding = StaticDecoding(self._model.decoder, prompts.cache, first, TOKENS)
        found = decoding.run(decoding.step).tolist()
        equal = sum(
            a == b
            for row, decoded in zip(found, expected, strict=True)
            for a, b in zip(row, decoded.token_ids, strict=True)
        )
        return decoding, f"{equal} of {rows * TOKENS} tokens as the loop"

    def _step_s(self, decoding: StaticDecoding, step: Callable[[], None]) -> float:
        return self._seconds(lambda: decoding.run(step)) / (TOKENS - 1)

    def _requests(
        self, count: int, tokens: int = TOKENS, first: int = 0
    ) -> Sequence[GenerationRequest]:
        images = self._images[first : first + count]
        return [GenerationRequest(image, "Read it.", tokens) for image in images]

    def _seconds(self, action: Callable[[], object]) -> float:
        return median_seconds(action, self._device, self._effort.repeats)

    def _show_step(self, name: str, seconds: float) -> None:
        times = seconds / self._limit_s
        self._show(name, f"{seconds * MS:.2f} ms, {times:.1f} times the limit")


def median_seconds(action: Callable[[], object], device: str, repeats: int) -> float:
    """Return the median time of an action, after one run that is not measured."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def copy_speed(device: str, effort: Effort) -> float:
    """Return the bytes per second that a copy within the device's memory reads and writes."""
    source = torch.zeros(effort.copied_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = median_seconds(lambda: target.copy_(source), device, effort.repeats)
    return 2 * effort.copied_bytes / seconds


def main(
    shapes: Mapping[str, Shape] = PUBLISHED,
    device: str = "cuda",
    effort: Effort | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Measure shapes and print the figures.

    Args:
        shapes: Name -> shape.
        device: Device of the models.
        effort: The extent of the measurement; None for the default.
        clock: The clock of the time limit, in seconds.
    """
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA GPU: install a CUDA build of torch on a machine with a GPU.")
    deadline = clock() + LIMIT_S
    chip = torch.cuda.get_device_name() if device == "cuda" else device
    print(f"{chip}, torch {torch.__version__}, bf16, {TOKENS} tokens\n{GOALS}", flush=True)
    for name, shape in shapes.items():
        print(f"\n{name}")
        Measurement(
            shape,
            device,
            effort or Effort(),
            lambda figure, value: print(f"{figure:<28}{value}", flush=True),
            lambda: clock() < deadline,
        ).run()
        if device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
