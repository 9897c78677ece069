"""The labels of a folder of captchas, added by people and by the service.

`labels.tsv` has file, label, kind and expression between tabs, the last two optional, as
docs/evaluation.md describes it. `marks.tsv` has file and `Mark` of images that have no label yet.
An image has a label or a mark, never both. Both files are replaced as a whole, so that a reader
never finds a part of a row. Threads and processes that change them take turns.

    folder = LabelFolder(Path("captchas"))
    with folder.change() as labels:
        labels.set_label("7.png", Label("a3b9"))
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from qwen_captcha.collecting.files import exclusive, replace_file
from qwen_captcha.recognition.extraction import extract_answer
from qwen_captcha.recognition.options import Options
from qwen_captcha.samples import LABELS_FILE

MARKS_FILE = "marks.tsv"
LOCK_FILE = ".labels.lock"
# No captcha shows more characters.
MAX_LABEL_CHARACTERS = 64


class LabelsError(Exception):
    """A label, or a file of labels, cannot be used; the message is one line for the user."""


class Mark(StrEnum):
    """Why an image has no label."""

    WRONG = "wrong"  # The answer was wrong, and the right one is unknown.
    SKIPPED = "skipped"
    UNREADABLE = "unreadable"  # No person can read it.


@dataclass(frozen=True, slots=True)
class Label:
    """One label.

    Attributes:
        text: The text that a person must type; for arithmetic the number.
        kind: `digits`, `alnum`, `chinese`, `math`, or empty where it is unknown.
        expression: The text that is drawn, where it differs from `text`.
    """

    text: str
    kind: str = ""
    expression: str = ""


@dataclass
class Labels:
    """Labels and marks of the images of a folder, by file name."""

    labels: dict[str, Label] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)

    def set_label(self, file: str, label: Label) -> None:
        """Set the label of an image, and remove its mark."""
        self.labels[file] = label
        self.marks.pop(file, None)

    def set_mark(self, file: str, mark: Mark) -> None:
        """Set the mark of an image, and remove its label."""
        self.marks[file] = mark
        self.labels.pop(file, None)


class LabelFolder:
    """Reads and changes the labels of one folder; safe for threads and processes.

    Args:
        folder: The folder of the images.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> Labels:
        """Return the labels and marks as they are on disk.

        Raises:
            LabelsError: A row is malformed.
            OSError: A file cannot be read.
        """
        labels = {file: Label(*rest) for file, *rest in self._rows(LABELS_FILE, 2, 4)}
        if not all(label.text for label in labels.values()):
            raise LabelsError(f"{self.folder / LABELS_FILE} has a row without a label.")
        marks: dict[str, Mark] = {}
        for file, mark in self._rows(MARKS_FILE, 2, 2):
            if mark not in list(Mark):
                raise LabelsError(
                    f"{self.folder / MARKS_FILE}: {mark!r} is none of {', '.join(Mark)}."
                )
            if file not in labels:
                marks[file] = Mark(mark)
        return Labels(labels, marks)

    @contextmanager
    def change(self) -> Iterator[Labels]:
        """Yield the labels to be changed in place, and write what has changed.

        Raises:
            LabelsError: A row is malformed.
            OSError: A file cannot be read or written; labels on disk are not lost.
        """
        with exclusive(self.folder / LOCK_FILE):
            labels = self.read()
            before = Labels(dict(labels.labels), dict(labels.marks))
            yield labels
            # Labels first: read() drops a mark beside a label.
            if labels.labels != before.labels:
                self._write(LABELS_FILE, _label_rows(labels.labels))
            if labels.marks != before.marks:
                self._write(MARKS_FILE, [[*row] for row in labels.marks.items()])

    def _rows(self, name: str, minimum: int, maximum: int) -> Iterator[list[str]]:
        """Yield the cells of each row that is not empty."""
        path = self.folder / name
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return
        except UnicodeDecodeError as error:
            raise LabelsError(f"{path} is not UTF-8: {error.reason}.") from error
        for number, line in enumerate(text.split("\n"), 1):
            cells = line.removesuffix("\r").split("\t")
            if cells == [""]:
                continue
            if not minimum <= len(cells) <= maximum:
                raise LabelsError(
                    f"{path}, line {number}: it has {len(cells)} cells between tabs; "
                    f"{minimum} to {maximum} are allowed."
                )
            yield cells

    def _write(self, name: str, rows: list[list[str]]) -> None:
        text = "".join("\t".join(row) + "\n" for row in rows)
        replace_file(self.folder / name, text.encode())


def _label_rows(labels: Mapping[str, Label]) -> list[list[str]]:
    """Return the rows of `labels.tsv`, without empty cells at their ends."""
    rows = []
    for file, label in labels.items():
        row = [file, label.text, label.kind, label.expression]
        while not row[-1]:
            row.pop()
        rows.append(row)
    return rows


def label_text(text: str) -> str:
    """Return a text as it becomes a label: trimmed, in composed form.

    Raises:
        LabelsError: It is empty or too long, or has a character that no image shows.
    """
    text = unicodedata.normalize("NFC", text.strip())
    if not text:
        raise LabelsError("The label is empty: type the text, or skip the image.")
    if len(text) > MAX_LABEL_CHARACTERS:
        raise LabelsError(
            f"The label has {len(text)} characters; at most {MAX_LABEL_CHARACTERS} are allowed."
        )
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text):
        raise LabelsError(
            "The label has a control character, such as a tab or a line break: remove it."
        )
    return text


def fits_into_a_row(text: str) -> bool:
    """Return whether a row of a file of labels can hold a text, such as the name of a file."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def label_of_answer(text: str, raw_response: str) -> Label:
    """Return the label of an image for an answer that is right.

    The label of arithmetic has the expression that the model read. Letters have the case that the
    model read, whatever the option `case` was.

    Args:
        text: The answer.
        raw_response: The output of the model.

    Raises:
        LabelsError: The text cannot be a label.
    """
    label = Label(label_text(text))
    read = extract_answer(raw_response, Options(), answers_questions=False)
    if read is None or read.text.casefold() != label.text.casefold():
        return label
    expression = raw_response.strip()
    if read.computed and fits_into_a_row(expression):
        return Label(read.text, "math", expression)
    return Label(read.text)
