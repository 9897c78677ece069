"""Measure the speed of the service against plain `generate` on one image after another.

    python -m evaluation.bench [--model FOLDER] [--against ddddocr rapidocr torch] [--json FILE]
    python -m evaluation.bench --rounds 1 --images 32     a quick look

Both sides read the same images in turns, with the same checkpoint, machine and number of threads.
No service outlives the run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.accuracy.readers.base import ReaderError
from evaluation.accuracy.readers.ddddocr import DdddocrReader
from evaluation.accuracy.readers.ppocr import PPOCRReader
from evaluation.load.bench_report import (
    BenchReport,
    Plan,
    SingleImageTimes,
    render_report,
)
from evaluation.load.machine import (
    commit_of,
    describe_machine,
    peak_resident_bytes,
)
from evaluation.load.speed import (
    Way,
    agreement,
    measure_rounds,
)
from evaluation.load.synthetic_captchas import draw_captchas
from evaluation.load.workloads import (
    cached_latencies,
    concurrent_clients,
    read_in_batches,
    single_latencies,
)
from evaluation.services.client import ServiceClient, ServiceError
from evaluation.services.service_process import (
    PROJECT,
    ServiceStartError,
    exit_on_sigterm,
    running_service,
)
from qwen_captcha.backends.hardware import usable_cores
from qwen_captcha.checkpoints.resolve import BUNDLED
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.settings import SettingsError, settings_from_environment

if TYPE_CHECKING:
    from evaluation.load.plain_generate import PlainGenerate

BATCH_IMAGES = 32
CLIENTS = 16
CACHED_REPEATS = 200
PLAIN = "plain generate, one by one"
BATCH = f"/batch-ocr of {BATCH_IMAGES} images"
CONCURRENT = f"/ocr from {CLIENTS} clients"


_FAILURES = (
    ServiceStartError,
    ServiceError,
    ModelLoadError,
    SettingsError,
    ReaderError,
    OSError,
)


@dataclass(frozen=True, slots=True)
class Competitor:
    """Another reader of captchas.

    Attributes:
        name: Name in the report.
        read: Returns the text of one image.
        read_all: Returns the texts of many images, in its fastest way.
    """

    name: str
    read: Callable[[bytes], str | None]
    read_all: Callable[[Sequence[bytes]], list[str | None]]


def service_environment(plan: Plan) -> dict[str, str]:
    """Return the variables that every measured service is started with."""
    return {
        "QWEN_MODEL": plan.model,
        "QWEN_BACKEND": plan.backend,
        "HOST": "127.0.0.1",
        "OMP_NUM_THREADS": str(plan.threads),
        "LOG_LEVEL": "warning",
        # Long enough for a large model on a slow machine.
        "OCR_TIMEOUT_S": "600",
        "BATCH_OCR_TIMEOUT_S": "600",
    }


def measure(plan: Plan) -> BenchReport:
    """Run all measurements.

    Raises:
        ServiceStartError: The service did not become ready.
        ServiceError: The service rejected an image, or answered from its cache.
        ModelLoadError: The checkpoint cannot be loaded.
        SettingsError: The environment holds a setting that cannot be used.
    """
    images = [image for image, _ in draw_captchas(plan.images)]
    environment = service_environment(plan)
    _print_progress("Starting the service, cache off …")
    with ExitStack() as stack:
        service = stack.enter_context(running_service({**environment, "CACHE_SIZE": "0"}))
        device = str(service.health.get("device"))
        plain = load_plain(plan, device)
        _print_progress(f"Measuring {plan.images} images in three ways, {plan.rounds} times …")
        competitors = [
            competitor
            for name in plan.against
            for competitor in load_competitors(name, plan, stack)
        ]
        ways, agreed = measure_ways(service.url, images, plan.rounds, plain.read, competitors)
        single_times = [
            measure_single(service.url, images, competitor) for competitor in competitors
        ]
        peak = peak_resident_bytes(service.pid)
    _print_progress("Starting the service, cache on …")
    with (
        running_service({**environment, "CACHE_SIZE": "64"}) as caching_service,
        ServiceClient(caching_service.url) as client,
    ):
        cached_s, health_s = cached_latencies(client, images[0], CACHED_REPEATS)
    return BenchReport(
        machine=describe_machine(plan.threads),
        commit=commit_of(PROJECT),
        plan=plan,
        backend=str(service.health.get("backend")),
        device=device,
        precision=plain.settings.precision,
        ways=ways,
        single_times=single_times,
        agreement=agreed,
        start_to_ready_s=(service.start_to_ready_s, caching_service.start_to_ready_s),
        peak_resident_bytes=peak,
        cached_reply_s=cached_s,
        health_s=health_s,
    )


def _print_progress(progress: str) -> None:
    """Print progress to stderr; the report alone goes to the standard output."""
    print(progress, file=sys.stderr, flush=True)


def load_plain(plan: Plan, device: str) -> PlainGenerate:
    """Load the same checkpoint into this process."""
    # Imported here: torch takes seconds and a gigabyte, and `--help` needs neither.
    from evaluation.load.plain_generate import PlainGenerate, plain_settings

    settings = replace(settings_from_environment(), qwen_model=plan.model)
    return PlainGenerate(plain_settings(settings, device, plan.threads))


def load_competitors(name: str, plan: Plan, stack: ExitStack) -> list[Competitor]:
    """Return ready competitors; their services end with the stack.

    Args:
        name: One of `Plan.against`.
        plan: The plan of the measurement.
        stack: The stack that closes their services.

    Raises:
        ReaderError: ddddocr or rapidocr is not installed.
        ServiceStartError: The service did not become ready.
    """
    if name == "ddddocr":  # Its number of threads cannot be set.
        return [_in_process(DdddocrReader(beta=beta)) for beta in (True, False)]
    if name == "rapidocr":
        return [_in_process(PPOCRReader(plan.threads))]
    environment = {**service_environment(plan), "QWEN_BACKEND": name, "CACHE_SIZE": "0"}
    service = stack.enter_context(running_service(environment))
    client = stack.enter_context(ServiceClient(service.url))
    clients = stack.enter_context(concurrent_clients(service.url, CLIENTS))
    return [
        Competitor(
            f"{CONCURRENT}, QWEN_BACKEND={name}",
            lambda image: client.ocr(image)[0].raw_response,
            lambda images: [answer.raw_response for answer in clients.read(images)],
        )
    ]


def _in_process(reader: DdddocrReader | PPOCRReader) -> Competitor:
    return Competitor(
        reader.name, reader.transcribe, lambda images: [*map(reader.transcribe, images)]
    )


def measure_single(url: str, images: Sequence[bytes], competitor: Competitor) -> SingleImageTimes:
    """Read the images one at a time, with the service and the competitor in turns."""
    with ServiceClient(url) as client:
        return SingleImageTimes(competitor.name, *single_latencies(client, competitor.read, images))


def measure_ways(
    url: str,
    images: Sequence[bytes],
    rounds: int,
    plain_read: Callable[[bytes], str],
    competitors: Sequence[Competitor] = (),
) -> tuple[list[Way], dict[str, float]]:
    """Read the images in every way, once to warm up and compare, then once a round.

    Args:
        url: The running service.
        images: Distinct images, a multiple of `BATCH_IMAGES`.
        rounds: How often each way is measured.
        plain_read: Plain `generate` of one image.
        competitors: Other readers, measured with the rest.

    Returns:
        The ways, plain `generate` first, and for the service's ways the share of images with the
        same text as plain `generate`.
    """
    with ServiceClient(url) as client, concurrent_clients(url, CLIENTS) as clients:
        ways: dict[str, Callable[[], list[str | None]]] = {
            PLAIN: lambda: [plain_read(image) for image in images],
            BATCH: lambda: [a.raw_response for a in read_in_batches(client, images, BATCH_IMAGES)],
            CONCURRENT: lambda: [a.raw_response for a in clients.read(images)],
        }
        for competitor in competitors:
            ways[competitor.name] = partial(competitor.read_all, images)
        texts = {name: read() for name, read in ways.items()}
        measured = measure_rounds(ways, len(images), rounds)
    return measured, {name: agreement(texts[name], texts[PLAIN]) for name in (BATCH, CONCURRENT)}


def plan_of(argv: Sequence[str] | None) -> tuple[Plan, Path | None]:
    """Return the arguments of the command line: the plan, and where to write JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.bench", description="Measure the speed of the service."
    )
    parser.add_argument("--model", default=BUNDLED, help="bundled, a folder or a hub name")
    parser.add_argument("--images", type=_images, default=64, help="images each way and round")
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--threads", type=_threads, default=usable_cores())
    parser.add_argument("--backend", choices=["auto", "torch", "onnx"], default="auto")
    parser.add_argument(
        "--against",
        choices=["ddddocr", "rapidocr", "torch"],
        nargs="+",
        default=(),
        help="read the same images with both models of ddddocr, with PP-OCRv6 small of rapidocr, "
        "with a service on PyTorch",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report")
    chosen = parser.parse_args(argv)
    plan = Plan(
        chosen.model,
        chosen.images,
        chosen.rounds,
        chosen.threads,
        chosen.backend,
        tuple(chosen.against),
    )
    return plan, chosen.json


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(text)


def _images(text: str) -> int:
    number = _positive(text)
    if number % BATCH_IMAGES:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of {BATCH_IMAGES}")
    return number


def _threads(text: str) -> int:
    number = _positive(text)
    if number > usable_cores():
        raise argparse.ArgumentTypeError(f"{text} is more than the {usable_cores()} usable cores")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    plan, json_file = plan_of(argv)
    exit_on_sigterm()
    try:
        report = measure(plan)
        print(render_report(report))
        if json_file is not None:
            content = json.dumps(asdict(report), ensure_ascii=False, indent=1) + "\n"
            json_file.write_text(content, encoding="utf-8")
    except _FAILURES as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
