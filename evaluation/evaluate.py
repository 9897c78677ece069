"""How often a running service reads labelled captchas right.

Responsible for: the command line, sending every image as the Go program does (raw body of
`POST /ocr`, one after another), the JSON file. Leaves figures to `summary.py` and their looks to
`table.py`. Invariant: every image of the folder gets exactly one prediction; a refused image is a
wrong answer, a service that cannot be reached ends the run.

Run: `python -m evaluation.evaluate FOLDER --url http://127.0.0.1:5000 [--json FILE]`, for a folder
in one of the layouts of `samples.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from evaluation.client import Answer, Exchange, ServiceClient, ServiceError
from evaluation.samples import Family, SampleError, read_families
from evaluation.summary import Prediction, Summary, judge, summarise
from evaluation.table import render

CONTENT_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}
Judged = list[tuple[Family, list[Prediction]]]


def predict(
    families: Sequence[Family],
    ocr: Callable[[bytes, str], tuple[Answer, Exchange]],
    advance: Callable[[], object],
) -> Judged:
    """Have every image read, one after another.

    Args:
        families: What to read.
        ocr: Reads one image, given its bytes and content type.
        advance: Called once for each image that was read.
    """
    judged: Judged = []
    for family in families:
        predictions = []
        for sample in family.samples:
            content_type = CONTENT_TYPES.get(sample.path.suffix.lower(), "application/octet-stream")
            answer, exchange = ocr(sample.path.read_bytes(), content_type)
            predictions.append(judge(family, sample, answer, exchange.latency_s))
            advance()
        judged.append((family, predictions))
    return judged


def ready_model(client: ServiceClient) -> str:
    """Return the name of the model that the service has loaded.

    Raises:
        ServiceError: The service is not ready.
    """
    health = client.health()
    if health.status != 200:
        raise ServiceError(f"The service is not ready: {health.fields.get('model_status')}.")
    return str(health.fields.get("model"))


def report_of(source: dict[str, str], summary: Summary, judged: Judged) -> dict[str, object]:
    """Return the content of the JSON file: source, figures, and each image's prediction."""
    predictions = [
        {"family": family.name, **asdict(prediction)}
        for family, predictions in judged
        for prediction in predictions
    ]
    return {**source, **asdict(summary), "predictions": predictions}


def evaluate(folder: Path, url: str) -> tuple[str, dict[str, object]]:
    """Evaluate a service; return the table and the content of the JSON file.

    Raises:
        SampleError: The folder holds no labelled captchas.
        ServiceError: The service is not ready or breaks the contract.
    """
    families = read_families(folder)
    images = sum(len(family.samples) for family in families)
    with ServiceClient(url) as client:
        model = ready_model(client)
        # `disable=None`: no bar where the output is not a terminal.
        with tqdm(total=images, unit="image", disable=None, leave=False) as bar:
            judged = predict(families, client.ocr, bar.update)
    summary = summarise(judged)
    source = {"folder": str(folder), "url": url, "model": model}
    heading = f"{images} images of {folder}, read by {model}"
    return f"{heading}\n\n{render(summary)}", report_of(source, summary, judged)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.evaluate", description="How often a service is right."
    )
    parser.add_argument("folder", type=Path, help="labelled captchas")
    parser.add_argument("--url", default="http://127.0.0.1:5000", help="root of the service")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and predictions")
    arguments = parser.parse_args(argv)
    try:
        table, report = evaluate(arguments.folder, arguments.url)
        print(table)
        if arguments.json is not None:
            content = json.dumps(report, ensure_ascii=False, indent=1) + "\n"
            arguments.json.write_text(content, encoding="utf-8")
    except (SampleError, ServiceError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
