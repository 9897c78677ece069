"""Labelled captchas on disk: a tree of families, or one folder.

Three layouts are read:

- a tree: `<family>/labels.tsv` beside the images, optionally a `manifest.json` at the top;
- one folder with `labels.tsv`: file, label, kind, expression, separated by tabs; the last two may
  be left out;
- one folder of images whose names begin with the label: `a3b9.png`, `a3b9_001.png`.

Every sample's file exists, every family holds at least one sample of one kind, and samples are in
the order of their file names.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

LABELS_FILE = "labels.tsv"
MANIFEST_FILE = "manifest.json"
KINDS = ("digits", "alnum", "math", "chinese")
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
    | {".avif", ".ico", ".ppm", ".jp2", ".svg"}
)


class SampleError(Exception):
    """A folder cannot be read as labelled captchas; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: The image file.
        label: What a person must type; for arithmetic the number.
        expression: What is drawn, where that is not the label.
    """

    path: Path
    label: str
    expression: str | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Captchas of one generator.

    Attributes:
        name: Folder name.
        kind: One of `KINDS`.
        samples: At least one, by file name.
        case_sensitive: Whether a letter in the wrong case is a mistake.
        baseline: ddddocr's share of right answers, its better model's, or None where unknown.
        tune: Whether development may look at this family, or None where it is unknown.
    """

    name: str
    kind: str
    samples: tuple[Sample, ...]
    case_sensitive: bool = False
    baseline: float | None = None
    tune: bool | None = None


def read_families(folder: Path) -> list[Family]:
    """Read a tree of families or a single folder.

    Returns:
        The families by name; a single folder with several kinds gives one family a kind.

    Raises:
        SampleError: There are no labelled images, or a label file or the manifest is malformed.
    """
    if not folder.is_dir():
        raise SampleError(f"{folder} is not a folder.")
    children = sorted(path.parent for path in folder.glob(f"*/{LABELS_FILE}"))
    if (folder / LABELS_FILE).is_file() or not children:
        return _families_of(folder, {})
    manifest = _read_manifest(folder / MANIFEST_FILE)
    return [
        family for child in children for family in _families_of(child, manifest.get(child.name, {}))
    ]


def read_samples(folder: Path) -> list[Sample]:
    """Return all labelled images of a tree of families or a single folder.

    Raises:
        SampleError: As `read_families`.
    """
    return [sample for family in read_families(folder) for sample in family.samples]


def _families_of(folder: Path, facts: Mapping[str, object]) -> list[Family]:
    """Return one family for each kind that the folder holds."""
    labels = folder / LABELS_FILE
    rows = _from_labels_file(labels) if labels.is_file() else _from_file_names(folder)
    by_kind: dict[str, list[Sample]] = defaultdict(list)
    for sample, kind in sorted(rows, key=lambda row: row[0].path.name):
        by_kind[kind or _manifest_kind(facts, folder) or kind_of(sample.label)].append(sample)
    if not by_kind:
        raise SampleError(f"{folder} holds no labelled images: no {LABELS_FILE}, no a3b9_1.png.")
    name = folder.resolve().name
    return [
        Family(
            name=name if len(by_kind) == 1 else f"{name}/{kind}",
            kind=kind,
            samples=tuple(samples),
            case_sensitive=facts.get("case_sensitive") is True,
            baseline=_baseline(facts),
            tune=_flag(facts.get("tune")),
        )
        for kind, samples in sorted(by_kind.items())
    ]


def _from_labels_file(labels: Path) -> Iterable[tuple[Sample, str | None]]:
    """Yield each row's sample and kind."""
    with labels.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        for row in reader:
            if not row:
                continue
            where = f"{labels}, line {reader.line_num}"
            yield _sample_of(row, labels.parent, where)


def _sample_of(row: list[str], folder: Path, where: str) -> tuple[Sample, str | None]:
    if not 2 <= len(row) <= 4 or not row[1]:
        raise SampleError(f"{where}: expected file, label, kind, expression between tabs.")
    file, label, kind, expression = row + [""] * (4 - len(row))
    if not (folder / file).is_file():
        raise SampleError(f"{where}: there is no file {file}.")
    if kind and kind not in KINDS:
        raise SampleError(f"{where}: kind {kind!r} is none of {', '.join(KINDS)}.")
    return Sample(folder / file, label, expression or None), kind or None


def _from_file_names(folder: Path) -> Iterable[tuple[Sample, None]]:
    """Yield a sample for each image; the label stands before the last underscore."""
    for path in folder.iterdir():
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            before, underscore, _ = path.stem.rpartition("_")
            label = before if underscore else path.stem
            if not label:
                raise SampleError(f"{path} does not begin with a label, as a3b9_001.png does.")
            yield Sample(path, label), None


def kind_of(label: str) -> str:
    """Return the kind that a bare label suggests: `digits`, `chinese` or `alnum`."""
    if label.isascii() and label.isdigit():
        return "digits"
    if any("\u3400" <= character <= "\u9fff" for character in label):
        return "chinese"
    return "alnum"


def _read_manifest(path: Path) -> dict[str, dict[str, object]]:
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SampleError(f"{path} is not JSON: {error}") from error
    if not isinstance(manifest, dict) or not all(isinstance(v, dict) for v in manifest.values()):
        raise SampleError(f"{path} is not an object of families.")
    return manifest


def _manifest_kind(facts: Mapping[str, object], folder: Path) -> str | None:
    kind = facts.get("kind")
    if kind is None:
        return None
    if kind not in KINDS:
        raise SampleError(f"{folder.name} in {MANIFEST_FILE}: {kind!r} is none of {KINDS}.")
    return str(kind)


def _baseline(facts: Mapping[str, object]) -> float | None:
    figures = [facts.get("ddddocr"), facts.get("ddddocr_beta")]
    known = [float(figure) for figure in figures if isinstance(figure, int | float)]
    return max(known, default=None)


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None
