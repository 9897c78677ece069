"""Readings made by hand, for tests of what is computed from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.accuracy.predictions import Prediction, score
from evaluation.accuracy.report import (
    Report,
    Source,
    count_warnings,
)
from evaluation.accuracy.summary import summarise
from evaluation.services.client import Answer
from qwen_captcha.samples import Family, Sample

NOTHING_READ = Answer("", 0.0, False, None, "no_answer")


def answered(text: str, confidence: float = 0.5, *warnings: str) -> Answer:
    return Answer(text, confidence, True, text, None, warnings)


def family_of(name: str, kind: str, *labels: str, folder: Path = Path(), **facts: Any) -> Family:
    """Return a family with one image, `0.png`, `1.png`, …, a label."""
    samples = tuple(Sample(folder / f"{i}.png", label) for i, label in enumerate(labels))
    return Family(name, kind, samples, **facts)


def scored(
    family: Family, *answers: Answer, latency_s: float = 0.01
) -> tuple[Family, list[Prediction]]:
    """Pair a family's samples with answers."""
    return family, [
        score(family, sample, answer, latency_s)
        for sample, answer in zip(family.samples, answers, strict=True)
    ]


def report_of(*readings: tuple[Family, list[Prediction]], **facts: Any) -> Report:
    source = Source("mine", "bundled", None, {"kind": "text"}, 2, "2026-01-02T03:04:05", "abc123")
    return Report(source, readings, summarise(readings), count_warnings(readings), **facts)
