"""The body of a request made into image bytes and options.

Responsible for: the three forms in which images arrive (multipart files, base64 in JSON or in a
form field, the raw body), limits on bytes and on the number of images, and collecting options from
body and query. Invariant: nothing is decoded before its size is known to be within the limit, and
in a batch a bad image is an item's error, never the request's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from flask import Request
from werkzeug.datastructures import FileStorage

from qwen_captcha.errors import (
    BadRequest,
    CaptchaServiceError,
    EmptyImage,
    ImageTooLarge,
    InvalidBase64,
    MissingImage,
    TooManyImages,
)
from qwen_captcha.images.headers import image_format
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
# Text fields that hold an image: of this service, and of a dialect of ddddocr's servers.
BASE64_FIELDS = ("image_base64", "image")


@dataclass(frozen=True, slots=True)
class PayloadLimits:
    """What is accepted at all.

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
        """Return those of some settings."""
        return cls(
            settings.max_image_bytes, settings.max_batch_images, settings.max_prompt_characters
        )

    def parse_options(self, *sources: Mapping[str, object]) -> Options:
        """Return the options among some fields; raises InvalidOption."""
        return parse_options(*sources, max_prompt_characters=self.max_prompt_characters)


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries, before it is decided whose request it is.

    Attributes:
        image: The body itself, where it is an image.
        fields: The text fields of a form, or the JSON object.
        files: The files of a multipart form.
        query: The fields of the query.
        is_json: Whether `fields` is a JSON object.
    """

    image: bytes | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, FileStorage] = field(default_factory=dict)
    query: Mapping[str, object] = field(default_factory=dict)
    is_json: bool = False


@dataclass(frozen=True, slots=True)
class ImageUpload:
    """One image of a batch.

    Attributes:
        filename: The name the caller gave, or `image_1`, `image_2`, … by position.
        data: The bytes of the file, or why there are none.
    """

    filename: str
    data: bytes | CaptchaServiceError


def read_body(request: Request) -> Body:
    """Return what a request carries.

    Raises:
        BadRequest: The body announces JSON, but is not a JSON object.
    """
    if request.mimetype == "multipart/form-data":
        return Body(fields=request.form, files=request.files, query=request.args)
    # Read before `request.form` is touched, which would swallow an urlencoded body.
    data = request.get_data(parse_form_data=False)
    # The first bytes decide: curl calls whatever it sends as --data-binary a form.
    if image_format(data) is not None or _announces_image(request):
        return Body(image=data, query=request.args)
    if request.is_json:
        return Body(fields=_json_object(data), query=request.args, is_json=True)
    if b"\0" in data:  # no form, but a file of a type that is not read, which is said so
        return Body(image=data, query=request.args)
    return Body(fields=_urlencoded_fields(request), query=request.args)


def parse_single(body: Body, limits: PayloadLimits) -> tuple[bytes, Options]:
    """Return the one image of a request, and its options.

    Raises:
        MissingImage: The body has no image in any of the accepted forms.
        EmptyImage: It has one of zero bytes.
        InvalidBase64: The base64 text is not base64.
        ImageTooLarge: The image is over `max_image_bytes`.
        InvalidOption: An option has a value that is not allowed.
    """
    options = limits.parse_options(body.fields, body.query)
    if body.image is not None:
        return _within_limit(body.image, limits), options
    file = body.files.get("image")
    if file is not None:
        return image_from_file(file, limits), options
    text = body.fields.get("image_base64")
    if text is None:
        raise MissingImage(SINGLE_FORMS)
    return image_from_base64(text, limits), options


def parse_batch(request: Request, limits: PayloadLimits) -> tuple[list[ImageUpload], Options]:
    """Return the images of a batch in the order sent, and the options common to all.

    Raises:
        MissingImage: The body has no images in any of the accepted forms.
        TooManyImages: It has more than `max_batch_images`.
        BadRequest: The body announces JSON, but is not a JSON object with a list of images.
        InvalidOption: An option has a value that is not allowed.
    """
    fields: Mapping[str, object] = request.form
    sources: Sequence[object] = request.files.getlist("images")
    if request.is_json:
        fields = _json_object(request.get_data())
        sources = _list_of_texts(fields)
    if not sources:
        raise MissingImage(BATCH_FORMS)
    if len(sources) > limits.max_batch_images:
        raise TooManyImages(
            f"The batch has {len(sources)} images; at most {limits.max_batch_images} are allowed."
        )
    options = limits.parse_options(fields, request.args)
    return [_upload(number, source, limits) for number, source in enumerate(sources, 1)], options


def _upload(number: int, source: object, limits: PayloadLimits) -> ImageUpload:
    """Return the image of a batch at a position counted from 1, with its error if it has one."""
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
        EmptyImage: It has zero bytes.
        ImageTooLarge: It is over `max_image_bytes`.
    """
    return _within_limit(file.read(limits.max_image_bytes + 1), limits)


def image_from_base64(text: object, limits: PayloadLimits) -> bytes:
    """Return the bytes that base64 stands for: plain or as a data URI, of either alphabet.

    Raises:
        InvalidBase64: It is no text, or not base64.
        EmptyImage: It stands for zero bytes.
        ImageTooLarge: It stands for more than `max_image_bytes`.
    """
    if not isinstance(text, str):
        raise InvalidBase64("An image must be given as base64 text.")
    if text.lstrip()[:5].lower() == "data:":
        text = text.partition(",")[2]
    digits = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    # 4 digits are 3 bytes.
    if len(digits) * 3 // 4 > limits.max_image_bytes:
        raise _too_large(limits)
    try:
        data = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except ValueError as error:
        raise InvalidBase64("The image is not valid base64.") from error
    return _within_limit(data, limits)


def _within_limit(data: bytes, limits: PayloadLimits) -> bytes:
    """Return the bytes of an image if there are any, and not too many."""
    if not data:
        raise EmptyImage("The image is empty: it has no bytes.")
    if len(data) > limits.max_image_bytes:
        raise _too_large(limits)
    return data


def _too_large(limits: PayloadLimits) -> ImageTooLarge:
    return ImageTooLarge(f"The image is larger than the limit of {limits.max_image_bytes} bytes.")


def _announces_image(request: Request) -> bool:
    """Return whether the content type says that the body itself is the image."""
    return request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream"


def _urlencoded_fields(request: Request) -> dict[str, object]:
    """Return the fields of an urlencoded form."""
    fields: dict[str, object] = dict(request.form.items())
    for name in BASE64_FIELDS:
        if name in request.form:
            # The + of base64 means a space in an urlencoded body, and senders forget to escape it.
            fields[name] = request.form[name].replace(" ", "+")
    return fields


def _json_object(body: bytes) -> dict[str, object]:
    """Return the object that a JSON body is."""
    try:
        fields = json.loads(body)
    # Thousands of nested brackets end in a RecursionError.
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not valid JSON.") from error
    if not isinstance(fields, dict):
        raise BadRequest("The body must be a JSON object.")
    return fields


def _list_of_texts(fields: Mapping[str, object]) -> Sequence[object]:
    """Return the images of a JSON batch, not yet checked one by one."""
    texts = fields.get("images_base64")
    if texts is None:
        return []
    if not isinstance(texts, list):
        raise BadRequest("images_base64 must be a list of base64 texts.")
    return texts
