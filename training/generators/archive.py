"""Tar files of labelled images: `0000.webp`, … and `labels.tsv`.

A line of `labels.tsv` holds file, label and kind, and for `math` the expression, between tabs.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from training.generators.drawing import Drawing, smallest_file

LABELS_FILE = "labels.tsv"


def write_archive(path: Path, drawings: Iterable[Drawing]) -> int:
    """Write drawings to a tar file and return how many there were.

    The file appears under its name when it is complete.  The same drawings give the same bytes.

    Raises:
        ValueError: A label is empty, or holds a tab or a line break.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    lines: list[str] = []
    try:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, drawing in enumerate(drawings):
                content, suffix = smallest_file(drawing.image)
                name = f"{number:04}.{suffix}"
                add_file(archive, name, content)
                lines.append(_line(name, drawing))
            add_file(archive, LABELS_FILE, "".join(lines).encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(lines)


def _line(name: str, drawing: Drawing) -> str:
    fields = [name, drawing.label, drawing.kind]
    if drawing.kind == "math":
        fields.append(drawing.expression)
    if not all(fields) or any(set(field) & set("\t\r\n") for field in fields):
        raise ValueError(f"{fields!r} is no line of {LABELS_FILE}: a field is empty or broken")
    return "\t".join(fields) + "\n"


def add_file(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file with `content` to an archive that is open for writing."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
