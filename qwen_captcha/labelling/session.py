"""One folder that is being labelled: its images, its labels, and the model's readings.

Only images of the folder itself can be requested. Each change is on disk when the call that makes
it returns. A reading of the model becomes a label only when a person confirms it.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen_captcha.collecting.labels import (
    Label,
    LabelFolder,
    Labels,
    LabelsError,
    Mark,
    fits_into_a_row,
    label_of_answer,
    label_text,
)
from qwen_captcha.errors import CaptchaServiceError, ModelLoadError
from qwen_captcha.images.decode import ImageLimits, decode_image
from qwen_captcha.images.headers import image_format
from qwen_captcha.recognition.answer import Answer
from qwen_captcha.recognition.options import Options
from qwen_captcha.samples import IMAGE_SUFFIXES
from qwen_captcha.service import CaptchaService, start_local_service
from qwen_captcha.settings import Settings

# Images that are read in one batch. With few, the first guesses appear soon.
READ_AT_ONCE = 8
READ_TIMEOUT_S = 3600.0
BROWSER_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "AVIF")


@dataclass(frozen=True, slots=True)
class Guess:
    """The model's suggestion for an image.

    Attributes:
        file: Its name.
        text: The suggested text, empty for none.
        confidence: Probability that the text is right.
        raw_response: The output of the model.
        error: The reason why the image cannot be read; empty where it can.
    """

    file: str
    text: str = ""
    confidence: float = 0.0
    raw_response: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """The bytes of an image file for a browser, and their media type."""

    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of labelling a folder, in images."""

    images: int
    labelled: int


class LabelSession:
    """The state of one labelling session; thread-safe.

    Args:
        folder: The folder of the images; subfolders are not searched.
        settings: Model and limits of the guesses.
        start_service: Loads the model.

    Raises:
        LabelsError: There is no such folder, it has no images, or its labels are malformed.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        start_service: Callable[[Settings], CaptchaService] = start_local_service,
    ) -> None:
        self.folder = folder
        self._labels = LabelFolder(folder)
        self._settings = settings
        self._start_service = start_service
        self._limits = ImageLimits(settings.max_image_pixels, settings.max_frames)
        self.files = image_files(folder)
        if not self.files:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise LabelsError(f"{folder} has no images: no file that ends with {suffixes}.")
        self._labels.read()
        self._known = frozenset(self.files)
        self._lock = threading.Lock()
        self._guesses: list[Guess] = []
        self._by_file: dict[str, Guess] = {}
        self._finished = False
        self._failure = ""

    def labels(self) -> Labels:
        """Return labels and marks as they are on disk.

        Raises:
            LabelsError: A file of labels has become malformed.
        """
        return self._labels.read()

    def progress(self) -> Progress:
        """Return the number of images with a label; raises as `labels` does."""
        labelled = self._labels.read().labels
        return Progress(len(self.files), sum(file in labelled for file in self.files))

    def picture(self, file: str) -> Picture | None:
        """Return an image of the folder for a browser, None where it has no such image.

        Formats that browsers cannot show, and SVG, which they run as a document, become a PNG.
        """
        if file not in self._known:
            return None
        try:
            data = (self.folder / file).read_bytes()
            kind = image_format(data)
            if kind in BROWSER_FORMATS:
                return Picture(data, f"image/{kind.lower()}")
            png = io.BytesIO()
            decode_image(data, self._limits).save(png, "PNG")
        except (OSError, CaptchaServiceError):
            return None
        return Picture(png.getvalue(), "image/png")

    def set_label(self, file: str, text: str) -> Label:
        """Write the label of an image and return it.

        Raises:
            KeyError: The folder has no such image, or it was removed.
            LabelsError: The text cannot be a label, or the file of labels is malformed.
            OSError: The label cannot be written.
        """
        label = self._label(file, label_text(text))
        with self._labels.change() as labels:
            # The service may have removed an image that it had collected.
            if not (self.folder / file).is_file():
                raise KeyError(file)
            before = labels.labels.get(file)
            if before is None or before.text != label.text:
                labels.set_label(file, label)
        return label

    def set_mark(self, file: str, mark: Mark) -> None:
        """Write why an image has no label.

        Raises:
            KeyError: The folder has no such image, or it was removed.
            LabelsError: The file of labels is malformed.
            OSError: The mark cannot be written.
        """
        if file not in self._known:
            raise KeyError(file)
        with self._labels.change() as labels:
            if not (self.folder / file).is_file():
                raise KeyError(file)
            labels.set_mark(file, mark)

    def guesses(self, after: int) -> tuple[Sequence[Guess], bool, str]:
        """Return the guesses after the first `after`, whether all are made, and the failure."""
        with self._lock:
            return self._guesses[after:], self._finished, self._failure

    def guess_all(self) -> None:
        """Decode all images, then read those without a label with the model; takes long.

        Images that cannot be decoded are reported before the model is loaded.
        """
        try:
            readable = [file for file in self.files if self._is_readable(file)]
            self._read(self._start_service(self._settings), self._to_read(readable))
        except (ModelLoadError, CaptchaServiceError, LabelsError, OSError) as error:
            self._failure = " ".join(str(error).split())
        finally:
            self._finished = True

    def _label(self, file: str, text: str) -> Label:
        """Return the label of an image, with the expression if the text is the computed guess."""
        if file not in self._known:
            raise KeyError(file)
        guess = self._by_file.get(file)
        if guess is not None and guess.text == text:
            return label_of_answer(text, guess.raw_response)
        return Label(text)

    def _is_readable(self, file: str) -> bool:
        """Return whether an image can be decoded; store the reason where it cannot."""
        try:
            decode_image((self.folder / file).read_bytes(), self._limits)
        except CaptchaServiceError as error:
            self._add(Guess(file, error=error.message))
        except OSError as error:
            self._add(Guess(file, error=f"{error.strerror}."))
        else:
            return True
        return False

    def _to_read(self, files: Sequence[str]) -> list[str]:
        """Return the images without a label, those with the mark `wrong` first."""
        known = self._labels.read()
        wrong = [file for file in files if known.marks.get(file) is Mark.WRONG]
        others = [file for file in files if file not in known.labels and file not in wrong]
        return wrong + others

    def _read(self, service: CaptchaService, files: Sequence[str]) -> None:
        at_once = min(READ_AT_ONCE, self._settings.max_queue_size)
        for first in range(0, len(files), at_once):
            batch = files[first : first + at_once]
            images = [(self.folder / file).read_bytes() for file in batch]
            deadline = service.monotonic() + READ_TIMEOUT_S
            answers = service.recognize_many(images, Options(), deadline)
            for file, answer in zip(batch, answers, strict=True):
                self._add(_guess(file, answer))

    def _add(self, guess: Guess) -> None:
        with self._lock:
            self._guesses.append(guess)
            self._by_file[guess.file] = guess


def image_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the images in a folder, in order.

    A name that no row of labels can hold, with a tab in it, is left out.

    Raises:
        LabelsError: There is no such folder, or it cannot be read.
    """
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        raise LabelsError(f"{folder} cannot be read: {error.strerror}.") from error
    names = (
        path.name
        for path in paths
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and fits_into_a_row(path.name)
        and path.is_file()
    )
    return tuple(sorted(names))


def _guess(file: str, answer: Answer) -> Guess:
    if answer.error_type not in (None, "no_answer"):
        return Guess(file, error=answer.error or "")
    return Guess(file, answer.text, answer.confidence, answer.raw_response)
