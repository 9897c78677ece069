"""Multipart forms, also of clients that send a file without a `filename`.

Werkzeug decodes a part without a `filename` as UTF-8, which destroys an image. Here a part that
holds an image or another binary file is a file.
"""

from __future__ import annotations

import io
from typing import IO, Any

from flask import Request
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.formparser import FormDataParser, MultiPartParser

from qwen_captcha.errors import BadRequest
from qwen_captcha.images.headers import image_format

NO_BOUNDARY = (
    "The multipart body has no boundary in its Content-Type. Leave that header to the HTTP client, "
    "which adds the boundary."
)
MALFORMED = "The multipart body is malformed."


class _LosslessParser(MultiPartParser):
    """Decodes text parts as ISO 8859-1, so that their bytes can be restored."""

    def get_part_charset(self, headers: Headers) -> str:
        """Return ISO 8859-1, in which every byte is a character."""
        return "iso-8859-1"


class FormParser(FormDataParser):
    """Parses forms; a malformed multipart form is an error instead of an empty form."""

    def parse(
        self,
        stream: IO[bytes],
        mimetype: str,
        content_length: int | None,
        options: dict[str, str] | None = None,
    ) -> tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]:
        """Return the stream, the text fields and the files of a form.

        Raises:
            BadRequest: A multipart form has no boundary or is malformed.
        """
        if mimetype != "multipart/form-data":
            return super().parse(stream, mimetype, content_length, options)
        boundary = (options or {}).get("boundary", "")
        if not boundary:
            raise BadRequest(NO_BOUNDARY)
        parser = _LosslessParser(
            stream_factory=self.stream_factory,
            max_form_memory_size=self.max_form_memory_size,
            max_form_parts=self.max_form_parts,
            cls=self.cls,
        )
        try:
            texts, files = parser.parse(stream, boundary.encode(), content_length)
        except ValueError as error:
            raise BadRequest(MALFORMED) from error
        fields: list[tuple[str, str]] = []
        unnamed: list[tuple[str, FileStorage]] = []
        for name, text in texts.items(multi=True):
            data = text.encode("iso-8859-1")
            if image_format(data) is None and b"\0" not in data:
                fields.append((name, data.decode("utf-8", "replace")))
            else:
                unnamed.append((name, FileStorage(io.BytesIO(data), name=name)))
        every_file: Any = [*files.items(multi=True), *unnamed]
        return stream, self.cls(fields), self.cls(every_file)


class CaptchaRequest(Request):
    """A request whose forms are parsed by `FormParser`."""

    form_data_parser_class = FormParser
