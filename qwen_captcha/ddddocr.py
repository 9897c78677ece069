"""`DdddOcr` over this project's model: a script that used ddddocr changes its import line.

    from qwen_captcha.ddddocr import DdddOcr

    ocr = DdddOcr(show_ad=False)
    text = ocr.classification(open("captcha.png", "rb").read())

The constructor, `classification` and `set_ranges` are those of ddddocr 1.6. A process loads a model
once for all instances. A range belongs to its instance. Calls for anything but text recognition
raise an error.
"""

from __future__ import annotations

import base64
import binascii
import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from qwen_captcha.errors import InvalidBase64
from qwen_captcha.recognition.answer import probabilities
from qwen_captcha.recognition.options import Options, parse_options
from qwen_captcha.service import CaptchaService, start_local_service
from qwen_captcha.settings import settings_from_environment

# There is no client that could disconnect: only a broken model keeps a script waiting so long.
DEADLINE_S = 3600.0

# Of Pillow's modes those that a PNG file can hold and the service can read.
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})

# Lower and upper bounds of hue, saturation and value in turn.
Bounds = Sequence[Sequence[int]]
Picture = bytes | str | PurePath | Image.Image | np.ndarray

_services: dict[bool | None, CaptchaService] = {}
_lock = threading.Lock()


class DdddOcr:
    """Reads captchas; thread-safe, and all instances share one model.

    Args:
        ocr: Must be true: text recognition is what there is.
        det: Must be false: there is no detection.
        old: Without effect, there is one model.
        beta: Without effect, there is one model.
        use_gpu: False forces the CPU; None leaves it to the setting USE_GPU.
        device_id: Without effect; the emptiest GPU is used.
        show_ad: Without effect, there are no advertisements.
        import_onnx_path: Must be empty: a model of your own is named by QWEN_MODEL.
        charsets_path: Must be empty.

    Raises:
        NotImplementedError: Something is asked for that is not text recognition.
        SettingsError: A setting in the environment cannot be used.
        ModelLoadError: The model cannot be loaded.
    """

    def __init__(
        self,
        ocr: bool = True,
        det: bool = False,
        old: bool = False,
        beta: bool = False,
        use_gpu: bool | None = None,
        device_id: int = 0,
        show_ad: bool = True,
        import_onnx_path: str = "",
        charsets_path: str = "",
    ) -> None:
        if det or not ocr:
            raise NotImplementedError("Detection and sliders are not offered: only text is read.")
        if import_onnx_path or charsets_path:
            raise NotImplementedError(
                "ONNX models of ddddocr cannot be loaded. A model of your own is a Qwen2-VL "
                "checkpoint here: set QWEN_MODEL to its folder. docs/your-own-captchas.md "
                "describes how to fit one to your captchas."
            )
        self._service = _shared_service(use_gpu)
        self._options = Options()

    def classification(
        self,
        img: Picture,
        png_fix: bool = False,
        probability: bool = False,
        color_filter_colors: Sequence[str] | None = None,
        color_filter_custom_ranges: Sequence[Bounds] | None = None,
        colors: Sequence[str] | None = None,
        custom_color_ranges: Mapping[str, Bounds] | None = None,
    ) -> str | dict[str, object]:
        """Return the text of a captcha, empty where there is no usable answer.

        Args:
            img: An image file's bytes, path or base64, or an image of Pillow or numpy.
            png_fix: Without effect: transparent images are always put on a background.
            probability: Return the text with its confidence, as `answer.probabilities` has it.
            color_filter_colors: Colors of the characters to read, by ddddocr's names.
            color_filter_custom_ranges: More of them, as lower and upper bounds of HSV.
            colors: The same as `color_filter_colors`, as ddddocr 1.5 and its description have it.
            custom_color_ranges: What names in `colors` stand for, as bounds of HSV.

        Raises:
            CaptchaServiceError: The image cannot be read, or a color is unknown.
            OSError: There is no such file.
        """
        options = self._options
        names = [*(color_filter_colors or ()), *(colors or ())]
        own = {name: _as_lists(bounds) for name, bounds in (custom_color_ranges or {}).items()}
        for number, bounds in enumerate(color_filter_custom_ranges or ()):
            own[f"range {number}"] = _as_lists(bounds)
            names.append(f"range {number}")
        if names or own:
            asked = parse_options({"colors": names, "custom_color_ranges": own})
            options = replace(options, colors=asked.colors)
        deadline = self._service.monotonic() + DEADLINE_S
        answer = self._service.recognize(image_file(img), options, deadline)
        return probabilities(answer) if probability else answer.text

    def set_ranges(self, charset_range: int | str | Sequence[str]) -> None:
        """Restrict the characters that this instance reads from now on.

        Args:
            charset_range: One of ddddocr's numbers, or the allowed characters.

        Raises:
            InvalidOption: There is no such number.
        """
        if isinstance(charset_range, int):
            self._options = parse_options({"charset_range": charset_range})
        else:
            self._options = parse_options({"charset": "".join(charset_range)})


def _as_lists(bounds: Bounds) -> list[list[int]]:
    """Return the bounds of colors as JSON has them."""
    return [[int(level) for level in bound] for bound in bounds]


def image_file(img: Picture) -> bytes:
    """Return an image file from whatever ddddocr takes for an image.

    Raises:
        InvalidBase64: A text is neither the path of a file nor base64.
        OSError: A path names no file.
        TypeError: It is something else, or an array that is no picture.
    """
    if isinstance(img, bytes):
        return img
    if isinstance(img, PurePath):
        return Path(img).read_bytes()
    if isinstance(img, str):
        return _file_of_text(img)
    if isinstance(img, np.ndarray):
        img = _picture_of_array(img)
    if isinstance(img, Image.Image):
        file = io.BytesIO()
        (img if img.mode in PNG_MODES else img.convert("RGB")).save(file, "PNG")
        return file.getvalue()
    raise TypeError(f"An image cannot be made from {type(img).__name__}.")


def _picture_of_array(array: np.ndarray) -> Image.Image:
    """Return the picture of an array (H, W) or (H, W, C), C from 1 to 4, of 8-bit values."""
    grey = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    try:
        return Image.fromarray(grey)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"An image cannot be made from an array {array.shape} of {array.dtype}."
        ) from error


def _file_of_text(text: str) -> bytes:
    """Return the file that a text is the path of, else the bytes that it is base64 of."""
    if _is_file(text):
        return Path(text).read_bytes()
    digits = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(digits.split()), validate=True)
    except binascii.Error as error:
        raise InvalidBase64("The text is neither the path of a file nor base64.") from error


def _is_file(text: str) -> bool:
    """Return whether a text is the path of a file; base64 may be longer than a path can be."""
    try:
        return Path(text).is_file()
    except OSError:
        return False


def _shared_service(use_gpu: bool | None) -> CaptchaService:
    """Return this process's service, started by the first instance that needs it."""
    with _lock:
        if use_gpu not in _services:
            settings = settings_from_environment()
            if use_gpu is not None:
                settings = replace(settings, use_gpu=use_gpu)
            _services[use_gpu] = start_local_service(settings)
        return _services[use_gpu]
