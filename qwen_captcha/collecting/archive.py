"""The images that the service collects in a folder, with their answers and feedback.

    3f9c….png                image as it was sent, named by its content
    collected.sqlite3        request ids, answers, order of arrival
    labels.tsv, marks.tsv    labels from feedback and people: `labels.py`

The number of images, and the bytes of images and database, never exceed their limits. An image with
a label is never removed. Any number of processes on one machine may share a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qwen_captcha.collecting.files import replace_file
from qwen_captcha.collecting.labels import (
    Label,
    LabelFolder,
    Labels,
    LabelsError,
    Mark,
    label_of_answer,
    label_text,
)
from qwen_captcha.errors import BadRequest, CaptchaServiceError, UnknownRequest
from qwen_captcha.images.headers import image_format

DATABASE_FILE = "collected.sqlite3"
SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "GIF": ".gif",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "TIFF": ".tiff",
    "AVIF": ".avif",
    "ICO": ".ico",
    "PPM": ".ppm",
    "JPEG 2000": ".jp2",
    "SVG": ".svg",
}
# Maximum stored answers to one image; feedback on older ones is rejected.
ANSWERS_PER_IMAGE = 16
# Longer outputs are no expressions, and would make the database large.
MAX_RAW_CHARACTERS = 200
# Maximum growth of the database by one image.
DATABASE_MARGIN_BYTES = 32 * 1024
# Each removal reads all labels, and therefore leaves room for a 64th of `max_images`.
EVICTION_DIVISOR = 64
# Seconds for which one process waits for another.
LOCK_TIMEOUT_S = 10.0

_OWN_NAME = re.compile("[0-9a-f]{32}(" + "|".join(map(re.escape, SUFFIXES.values())) + ")")
_TABLES = """
CREATE TABLE IF NOT EXISTS images (
    file TEXT PRIMARY KEY, bytes INTEGER NOT NULL, seen REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (
    request_id TEXT PRIMARY KEY, file TEXT NOT NULL, text TEXT NOT NULL, confidence REAL NOT NULL,
    raw_response TEXT NOT NULL, model TEXT NOT NULL, answered REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS answers_of_file ON answers (file);
"""


@dataclass(frozen=True, slots=True)
class CollectedAnswer:
    """An image and the answer to it.

    Attributes:
        request_id: Id of the request; a later answer with the same id replaces an earlier one.
        data: The image file.
        text: The answer, empty where there was none.
        confidence: Probability that the answer is right.
        raw_response: The output of the model.
        model: Name of the model.
    """

    request_id: str
    data: bytes
    text: str
    confidence: float
    raw_response: str
    model: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """The feedback of a site on an answer.

    Attributes:
        request_id: Id of the request with the answer.
        correct: Whether the site accepted the answer.
        text: The right text, None where it is unknown.
    """

    request_id: str
    correct: bool
    text: str | None = None


@dataclass
class StoreResult:
    """Counts of the outcomes of some answers.

    Attributes:
        kept: Answers that were stored.
        removed: Older images that were removed to free space.
        rejected: Answers without space, because images with labels are not removed.
    """

    kept: int = 0
    removed: int = 0
    rejected: int = 0


class ImageArchive:
    """The folder of collected images; safe for threads and processes.

    Args:
        folder: The folder, created with access for its owner only if it is missing.
        max_images: Maximum number of images.
        max_bytes: Maximum bytes of images and database.

    Raises:
        OSError: The folder cannot be written.
        sqlite3.Error: Its database cannot be used.
        LabelsError: Its labels are malformed.
    """

    def __init__(self, folder: Path, max_images: int, max_bytes: int) -> None:
        self.folder = folder
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._labels = LabelFolder(folder)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(folder / DATABASE_FILE, os.O_RDWR | os.O_CREAT, 0o600))
        with self._transaction() as db:
            for statement in _TABLES.split(";\n"):
                db.execute(statement)
            self._repair(db)

    def keep(self, answers: Sequence[CollectedAnswer]) -> StoreResult:
        """Store images and answers; remove the oldest images without a label to free space.

        Raises:
            OSError: A file cannot be written. Nothing is stored after this or the following errors.
            sqlite3.Error: The database cannot be written.
            LabelsError: The labels are malformed.
        """
        result = StoreResult()
        written: list[Path] = []
        try:
            with self._transaction() as db:
                for answer in answers:
                    self._keep(db, answer, result, written)
        except BaseException:
            for path in written:
                path.unlink(missing_ok=True)
            raise
        return result

    def record(self, feedback: Sequence[Feedback]) -> list[CaptchaServiceError | None]:
        """Write feedback; return for each item None, or the error of one that cannot be written.

        Raises:
            OSError: The labels cannot be read or written.
            sqlite3.Error: The database cannot be read.
            LabelsError: The labels are malformed.
        """
        with self._transaction() as db:
            found = [self._answer(db, one.request_id) for one in feedback]
            with self._labels.change() as labels:
                return [
                    _record(one, answer, labels)
                    for one, answer in zip(feedback, found, strict=True)
                ]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the database in a transaction during which no other process writes."""
        path = self.folder / DATABASE_FILE
        db = sqlite3.connect(path, timeout=LOCK_TIMEOUT_S, isolation_level=None)
        with contextlib.closing(db):
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _keep(
        self,
        db: sqlite3.Connection,
        answer: CollectedAnswer,
        result: StoreResult,
        written: list[Path],
    ) -> None:
        suffix = SUFFIXES[image_format(answer.data) or "PNG"]
        file = hashlib.sha256(answer.data).hexdigest()[:32] + suffix
        path = self.folder / file
        now = time.time()
        if not path.exists():  # A failed transaction restores rows of files that it removed.
            _delete(db, file)
        if not db.execute("UPDATE images SET seen = ? WHERE file = ?", (now, file)).rowcount:
            if not self._free_space(db, len(answer.data), result):
                result.rejected += 1
                return
            written.append(path)
            replace_file(path, answer.data)
            db.execute("INSERT INTO images VALUES (?, ?, ?)", (file, len(answer.data), now))
        db.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                answer.request_id,
                file,
                answer.text,
                answer.confidence,
                answer.raw_response[:MAX_RAW_CHARACTERS],
                answer.model,
                now,
            ),
        )
        db.execute(
            "DELETE FROM answers WHERE file = ?1 AND rowid NOT IN "
            "(SELECT rowid FROM answers WHERE file = ?1 ORDER BY rowid DESC LIMIT ?2)",
            (file, ANSWERS_PER_IMAGE),
        )
        result.kept += 1

    def _free_space(self, db: sqlite3.Connection, size: int, result: StoreResult) -> bool:
        """Remove images until one more fits; return False, and remove none, if it cannot fit."""
        images, used = db.execute("SELECT COUNT(*), COALESCE(SUM(bytes), 0) FROM images").fetchone()
        used += _database_bytes(db) + DATABASE_MARGIN_BYTES
        too_many, too_large = images + 1 - self._max_images, used + size - self._max_bytes
        if too_many <= 0 and too_large <= 0:
            return True
        spare = self._max_images // EVICTION_DIVISOR
        with self._labels.change() as labels:
            oldest = db.execute("SELECT file, bytes FROM images ORDER BY seen, rowid")
            removable = [row for row in oldest if row[0] not in labels.labels]
            evicted: list[str] = []
            for file, size_of_file in removable:
                if too_many + spare <= 0 and too_large <= 0:
                    break
                evicted.append(file)
                too_many, too_large = too_many - 1, too_large - size_of_file
            if too_many > 0 or too_large > 0:
                return False
            for file in evicted:
                (self.folder / file).unlink(missing_ok=True)
                labels.marks.pop(file, None)
                _delete(db, file)
        result.removed += len(evicted)
        return True

    def _answer(self, db: sqlite3.Connection, request_id: str) -> tuple[str, str, str] | None:
        """Return file, text and raw response of an answer, None if its image is not stored."""
        row = db.execute(
            "SELECT file, text, raw_response FROM answers WHERE request_id = ?", (request_id,)
        ).fetchone()
        return row if row and (self.folder / row[0]).exists() else None

    def _repair(self, db: sqlite3.Connection) -> None:
        """Remove rows without a file, and files without a row, after a process was killed."""
        listed = {file for (file,) in db.execute("SELECT file FROM images")}
        with self._labels.change() as labels:
            present = {path.name for path in self.folder.iterdir()}
            for file in listed - present:
                _delete(db, file)
            for name in present - listed - set(labels.labels):
                if _OWN_NAME.fullmatch(name) or (name.startswith(".") and name.endswith(".tmp")):
                    (self.folder / name).unlink(missing_ok=True)


def _delete(db: sqlite3.Connection, file: str) -> None:
    db.execute("DELETE FROM images WHERE file = ?", (file,))
    db.execute("DELETE FROM answers WHERE file = ?", (file,))


def _database_bytes(db: sqlite3.Connection) -> int:
    """Return the bytes of the database that are in use."""
    [[pages], [free], [page_bytes]] = (
        db.execute(f"PRAGMA {name}").fetchone()
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * page_bytes)


def _record(
    feedback: Feedback, answer: tuple[str, str, str] | None, labels: Labels
) -> CaptchaServiceError | None:
    """Write feedback into the labels; return the error if it cannot be written."""
    if answer is None:
        return UnknownRequest(
            "No image is stored for this request_id: none was collected, or it was removed to free "
            "space."
        )
    file, text, raw_response = answer
    try:
        right = None if feedback.text is None else label_text(feedback.text)
        if feedback.correct:
            if not text:
                return BadRequest(
                    "The answer was empty and cannot be correct: send correct as false, and text."
                )
            if right not in (None, text):
                return BadRequest(
                    "text differs from the answer: leave it out, or send correct as false."
                )
            labels.set_label(file, label_of_answer(text, raw_response))
        elif right is not None:
            if right == text:
                return BadRequest("text equals the answer: send correct as true, or another text.")
            labels.set_label(file, Label(right))
        elif _may_mark_wrong(file, text, labels):
            labels.set_mark(file, Mark.WRONG)
    except LabelsError as error:
        return BadRequest(str(error))
    return None


def _may_mark_wrong(file: str, wrong: str, labels: Labels) -> bool:
    """Return whether the mark `wrong` may replace the label or the mark of an image.

    It replaces a label only if that is the wrong answer itself.
    """
    label = labels.labels.get(file)
    if label is not None:
        return label.text == wrong
    return labels.marks.get(file) is not Mark.UNREADABLE
