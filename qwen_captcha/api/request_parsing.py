"""Parse the body of a request into image bytes and options.

Images arrive as multipart files, as base64 in JSON or in a form field, or as the raw body; options
in the body or the query. The size is checked before anything is decoded. In a batch, an invalid
image is an error of its item, not of the request.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

from flask import Request
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import RequestEntityTooLarge

from qwen_captcha.api.request_logging import is_request_id
from qwen_captcha.collecting.archive import Feedback
from qwen_captcha.errors import (
    BadRequest,
    CaptchaServiceError,
    EmptyImage,
    ImageTooLarge,
    InvalidBase64,
    MissingImage,
    TooManyImages,
)
from qwen_captcha.images.headers import damage_of, image_format, is_web_page
from qwen_captcha.recognition.options import (
    MAX_PROMPT_CHARACTERS,
    Options,
    parse_options,
)
from qwen_captcha.settings import Settings

SINGLE_FORMS = (
    "No image was sent. Send a multipart file field named image, JSON with image_base64, "
    "or the image itself as the body."
)
BATCH_FORMS = (
    "No images were sent. Send multipart file fields named images, or JSON with a list "
    "images_base64."
)
ADDRESS = (
    "The image is a web address, and this service downloads nothing. Send the image itself, as a "
    "file or as base64."
)

# A character of base64 as JSON or a client that escapes twice writes it.
_ESCAPE = re.compile(r"\\(?:u00([0-9A-Fa-f]{2})|([/nrt]))")
_ESCAPED = {"/": "/", "n": "", "r": "", "t": ""}
# Prefixes of base64 that are removed.
_PREFIX = re.compile(r"data:[^,]*(?:,|\Z)|base64,", re.IGNORECASE)
# Shortest line of base64 whose end may be a space instead of a line break.
_MIN_LINE_CHARACTERS = 16
_NOT_BASE64 = re.compile("[^A-Za-z0-9+/]")
# Names of a batch's files: as documented, as PHP and jQuery have them, and numbered.
_BATCH_FILE = re.compile(r"images(?:\[([0-9]{0,6})\])?")
# Bytes that may precede a JSON object: the byte order mark of UTF-8 and whitespace.
_BLANKS = b"\xef\xbb\xbf \t\r\n"
# Enough base64 to detect the format of an image by its first bytes.
_HEAD_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class PayloadLimits:
    """Limits of a request.

    Attributes:
        max_image_bytes: Size of one image file, base64 decoded.
        max_batch_images: Number of images in one batch.
        max_prompt_characters: Length of a caller's own instruction.
    """

    max_image_bytes: int
    max_batch_images: int
    max_prompt_characters: int = MAX_PROMPT_CHARACTERS

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits that settings define."""
        return cls(
            settings.max_image_bytes, settings.max_batch_images, settings.max_prompt_characters
        )

    def parse_options(self, *sources: Mapping[str, object]) -> Options:
        """Return the options of a request.

        Raises:
            InvalidOption: A value is not allowed, or options exclude each other.
        """
        return parse_options(*sources, max_prompt_characters=self.max_prompt_characters)


@dataclass(frozen=True, slots=True)
class Body:
    """The content of a request, before its dialect is known.

    Attributes:
        image: The body itself, where it is an image.
        fields: The text fields of a form, or the JSON object.
        files: The files of a multipart form.
        query: The fields of the query.
        is_json: Whether `fields` is a JSON object.
    """

    image: bytes | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    files: MultiDict[str, FileStorage] = field(default_factory=MultiDict)
    query: Mapping[str, object] = field(default_factory=dict)
    is_json: bool = False

    def file(self, name: str) -> FileStorage | None:
        """Return the file of a field, or the only file of the form under any name."""
        if name not in self.files and len(self.files) == 1:
            return next(iter(self.files.values()))
        return self.files.get(name)


@dataclass(frozen=True, slots=True)
class ImageUpload:
    """One image of a batch.

    Attributes:
        filename: The name the caller gave, or `image_1`, `image_2`, … by position.
        data: The bytes of the file, or the error of this image.
    """

    filename: str
    data: bytes | CaptchaServiceError


def read_body(request: Request) -> Body:
    """Return the content of a request.

    Raises:
        BadRequest: The body announces JSON, but is not a JSON object.
        RequestEntityTooLarge: The body is over the limit.
    """
    if request.mimetype == "multipart/form-data":
        return Body(fields=request.form, files=request.files, query=request.args)
    # Read first: `request.form` would consume an urlencoded body.
    data = request.get_data(parse_form_data=False)
    # Where no length is announced, Werkzeug cuts the body at the limit.
    if request.content_length is None and len(data) == request.max_content_length:
        raise RequestEntityTooLarge
    # The first bytes decide: clients send images with the content type of a form or of text.
    if image_format(data) is not None:
        return Body(image=data, query=request.args)
    if data.lstrip(_BLANKS).startswith(b"{"):
        return Body(fields=_json_object(data), query=request.args, is_json=True)
    decoded = _image_of_text(data)
    if decoded is not None:
        return Body(image=decoded, query=request.args)
    if request.is_json:
        return Body(fields=_json_object(data), query=request.args, is_json=True)
    # The body is a file of an unsupported type or a damaged image. Decoding it raises the error.
    if (
        _announces_image(request)
        or not _is_text(data)
        or is_web_page(data)
        or damage_of(data) is not None
    ):
        return Body(image=data, query=request.args)
    return Body(fields=request.form, query=request.args)


def parse_single(body: Body, limits: PayloadLimits) -> tuple[bytes, Options]:
    """Return the one image of a request, and its options.

    Raises:
        MissingImage: The body has no image in any of the accepted forms.
        EmptyImage: The image has zero bytes.
        InvalidBase64: The base64 text is not base64.
        ImageTooLarge: The image is over `max_image_bytes`.
        InvalidOption: An option has a value that is not allowed.
    """
    options = limits.parse_options(body.fields, body.query)
    if body.image is not None:
        return within_limit(body.image, limits), options
    text = body.fields.get("image_base64")
    file = body.file("image")
    if file is not None:
        return image_from_file(file, limits), options
    if text is None:
        raise MissingImage(SINGLE_FORMS)
    return image_from_base64(text, limits), options


def parse_batch(request: Request, limits: PayloadLimits) -> tuple[list[ImageUpload], Options]:
    """Return the images of a batch in the order sent, and the options common to all.

    Raises:
        MissingImage: The body has no images in any of the accepted forms.
        TooManyImages: The batch has more than `max_batch_images`.
        BadRequest: The body announces JSON, but is not a JSON object with a list of images.
        InvalidOption: An option has a value that is not allowed.
    """
    body = read_body(request)
    sources = _list_of_texts(body.fields) if body.is_json else _batch_files(body.files)
    if not sources:
        raise MissingImage(BATCH_FORMS)
    if len(sources) > limits.max_batch_images:
        raise TooManyImages(
            f"The batch has {len(sources)} images; at most {limits.max_batch_images} are allowed."
        )
    options = limits.parse_options(body.fields, body.query)
    return [_upload(number, source, limits) for number, source in enumerate(sources, 1)], options


def parse_feedback(body: bytes) -> Feedback:
    """Return the feedback on an answer.

    Raises:
        BadRequest: The body is not a JSON object with `request_id` and `correct`.
    """
    fields = _json_object(body)
    request_id, correct, text = (fields.get(name) for name in ("request_id", "correct", "text"))
    if not (isinstance(request_id, str) and _is_answer_id(request_id)):
        raise BadRequest(
            "request_id must be the X-Request-Id of the reply, for an image of a batch with its "
            "position as in 7f3a#1."
        )
    if not isinstance(correct, bool):
        raise BadRequest("correct must be true or false.")
    if not (text is None or isinstance(text, str)):
        raise BadRequest("text must be the right answer as a text, or be left out.")
    # A blank text is treated as missing, because forms send empty fields.
    return Feedback(request_id, correct, (text or "").strip() or None)


def _is_answer_id(text: str) -> bool:
    """Return whether a text is a request id, with or without the position in a batch."""
    request_id, mark, position = text.partition("#")
    return is_request_id(request_id) and (position.isdecimal() or not mark)


def _upload(number: int, source: object, limits: PayloadLimits) -> ImageUpload:
    """Return the image of a batch, or its error, from a position that starts at 1."""
    filename = (source.filename if isinstance(source, FileStorage) else None) or f"image_{number}"
    try:
        if isinstance(source, FileStorage):
            return ImageUpload(filename, image_from_file(source, limits))
        return ImageUpload(filename, image_from_base64(source, limits))
    except CaptchaServiceError as error:
        return ImageUpload(filename, error)


def image_from_file(file: FileStorage, limits: PayloadLimits) -> bytes:
    """Return the bytes of an uploaded file, reading no more than one beyond the limit.

    Raises:
        EmptyImage: The file has zero bytes.
        ImageTooLarge: The file is over `max_image_bytes`.
    """
    return within_limit(file.read(limits.max_image_bytes + 1), limits)


def image_from_base64(text: object, limits: PayloadLimits) -> bytes:
    """Return the bytes that base64 encodes.

    The function accepts what ddddocr's servers accept: both alphabets, line breaks, missing
    padding, a data URI, quotes around the text, escapes of JSON and URLs, and `+` that became a
    space. It ignores any other character only if the rest is an image.

    Raises:
        InvalidBase64: `text` is not a string, or not base64.
        EmptyImage: The image has zero bytes.
        ImageTooLarge: The image is over `max_image_bytes`.
    """
    if not isinstance(text, str):
        raise InvalidBase64("An image must be given as base64 text.")
    digits = _base64_digits(text)
    # 4 digits are 3 bytes.
    if len(digits) * 3 // 4 > limits.max_image_bytes:
        raise _too_large(limits)
    data = _decoded(digits)
    if data is None:
        data = _decoded(_NOT_BASE64.sub("", digits))
        if data is None or image_format(data) is None:
            is_address = text.lstrip().lower().startswith(("http://", "https://"))
            raise InvalidBase64(ADDRESS if is_address else "The image is not valid base64.")
    return within_limit(data, limits)


def _base64_digits(text: str) -> str:
    """Return the base64 within a text in the standard alphabet, without padding."""
    text = text.strip("\ufeff \t\r\n")
    # Python's repr of bytes.
    text = text.removeprefix("b'").strip("\"'` \t\r\n")
    if "%" in text:
        text = unquote(text)
    text = _ESCAPE.sub(
        lambda match: chr(int(match[1], 16)) if match[1] else _ESCAPED[match[2]], text
    )
    text = text.removeprefix((_PREFIX.match(text) or [""])[0])
    lines = "".join(text.split("\r")).replace("\n", "").strip().split(" ")
    text = ("" if _are_lines(lines) else "+").join(lines)
    return "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")


def _are_lines(parts: Sequence[str]) -> bool:
    """Return whether spaces separate lines of base64, instead of replacing `+`."""
    lengths = {len(part) for part in parts[:-1]}
    return len(lengths) == 1 and max(lengths) >= max(_MIN_LINE_CHARACTERS, len(parts[-1]))


def _decoded(digits: str) -> bytes | None:
    """Return the bytes that base64 without padding encodes, None if it is malformed."""
    try:
        return base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except ValueError:
        return None


def _image_of_text(body: bytes) -> bytes | None:
    """Return the image if the whole body is base64 of one, else None."""
    # Check the first bytes only: most bodies are something else.
    if not _is_base64_of_image(body[:_HEAD_CHARACTERS]):
        return None
    return _decoded(_base64_digits(body.decode("latin-1")))


def _is_base64_of_image(head: bytes) -> bool:
    """Return whether a text begins like base64 of an image."""
    digits = _base64_digits(head.decode("latin-1"))
    data = _decoded(digits[: len(digits) // 4 * 4])
    return data is not None and image_format(data) is not None


def _is_text(data: bytes) -> bool:
    """Return whether bytes can be text."""
    try:
        return "\0" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


def within_limit(data: bytes, limits: PayloadLimits) -> bytes:
    """Return the bytes of an image.

    Raises:
        EmptyImage: The image has zero bytes.
        ImageTooLarge: The image is over `max_image_bytes`.
    """
    if not data:
        raise EmptyImage("The image is empty: it has no bytes.")
    if len(data) > limits.max_image_bytes:
        raise _too_large(limits)
    return data


def _too_large(limits: PayloadLimits) -> ImageTooLarge:
    return ImageTooLarge(f"The image is larger than the limit of {limits.max_image_bytes} bytes.")


def _announces_image(request: Request) -> bool:
    """Return whether the body itself is the image, by its content type."""
    return request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream"


def _json_object(body: bytes) -> dict[str, object]:
    """Return the JSON object in a body.

    Raises:
        BadRequest: The body is not a JSON object.
    """
    try:
        fields = json.loads(body)
    # Thousands of nested brackets end in a RecursionError.
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not valid JSON.") from error
    if not isinstance(fields, dict):
        raise BadRequest("The body must be a JSON object.")
    return fields


def _batch_files(files: MultiDict[str, FileStorage]) -> Sequence[FileStorage]:
    """Return the images of a form in the order of their numbers, else in the order sent."""
    numbered = [
        (int(match[1] or 0), file)
        for name, file in files.items(multi=True)
        if (match := _BATCH_FILE.fullmatch(name or ""))
    ]
    return [file for _, file in sorted(numbered, key=lambda pair: pair[0])]


def _list_of_texts(fields: Mapping[str, object]) -> Sequence[object]:
    """Return the images of a JSON batch, not yet checked one by one."""
    texts = fields.get("images_base64")
    if texts is None:
        return []
    if not isinstance(texts, list):
        raise BadRequest("images_base64 must be a list of base64 texts.")
    return texts
