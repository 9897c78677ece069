"""The routes of ddddocr's own servers as data, and what their callers put to `POST /ocr`.

Responsible for: forms and replies of the three dialects. Invariant: as that of `operations.py`; the
routes that only say that something is not offered are not described.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qwen_captcha.api.dialects.base import FALSE_WORDS, TRUE_WORDS
from qwen_captcha.api.openapi.operation import (
    FORM_TYPE,
    JSON_TYPE,
    TEXT_TYPE,
    Operation,
    Reply,
)
from qwen_captcha.api.openapi.option_fields import (
    form_with,
    json_with,
    word_in_any_case,
)
from qwen_captcha.api.openapi.route_errors import SINGLE_ERRORS
from qwen_captcha.api.openapi.schemas import (
    BASE64,
    IMAGE_FILE,
    WARNINGS,
    Schema,
    any_of,
    object_of,
    ref,
    sent_to,
)
from qwen_captcha.errors import Gone, NotFound
from qwen_captcha.recognition.charsets import CHARSET_RANGES

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
TEXTS: Schema = {"type": "array", "items": TEXT}
TEXT_REPLY: Mapping[str, Schema] = {"text/plain; charset=utf-8": TEXT}
NULL: Schema = {"type": "null"}

_FLAG_WORDS = "|".join(word_in_any_case(word) for word in TRUE_WORDS + FALSE_WORDS if word)
FLAG: Schema = any_of(
    {"type": "boolean"},
    {"type": "integer", "enum": [0, 1]},
    {"type": "string", "pattern": rf"^\s*(?:{_FLAG_WORDS})?\s*$"},
)
RANGE: Schema = any_of({"type": "integer", "enum": sorted(CHARSET_RANGES)}, TEXT, TEXTS, NULL)

DIALECT_SCHEMAS: Mapping[str, Schema] = {
    "Probabilities": object_of(
        {
            "text": TEXT,
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "charsets": TEXTS,
            "probability": {"type": "array", "items": {"type": "array", "items": NUMBER}},
        }
    ),
    "DdddocrApiReply": sent_to(
        "JSON with image, or a file named file at /ocr/file",
        object_of(
            {
                "result": any_of(TEXT, ref("Probabilities")),
                "probability": NULL,
                "processing_time": {**NUMBER, "description": "Seconds."},
            },
            warnings=WARNINGS,
        ),
    ),
    "DdddocrApiError": sent_to(
        "a rejected request of ddddocr api's form", object_of({"detail": TEXT})
    ),
    "OcrApiServerReply": object_of(
        {"status": {"type": "integer", "const": 200}, "result": TEXT, "msg": TEXT}
    ),
    "DdddocrFastapiReply": sent_to(
        "a form with a file named file or a text named image, rejected ones included",
        object_of(
            {
                "code": {"type": "integer", "enum": [200, 400, 500]},
                "message": TEXT,
                "data": any_of(TEXT, ref("Probabilities"), NULL),
            }
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class SharedRoute:
    """What the dialects add to `POST /ocr`."""

    forms: tuple[Schema, ...]
    json_objects: tuple[Schema, ...]
    replies: tuple[Schema, ...]


_FASTAPI_FIELDS: Mapping[str, Schema] = {"probability": FLAG, "charsets": TEXT}
_API_FIELDS: Mapping[str, Schema] = {"probability": FLAG, "charset_range": RANGE}
_IMAGE_TEXT: Schema = {**BASE64, "description": f"{BASE64['description']} Not a file."}

DIALECTS_OF_OCR = SharedRoute(
    forms=(
        form_with("file", IMAGE_FILE, **_FASTAPI_FIELDS),
        form_with("image", _IMAGE_TEXT, **_FASTAPI_FIELDS),
    ),
    json_objects=(json_with("image", BASE64, **_API_FIELDS),),
    replies=(ref("DdddocrApiReply"), ref("DdddocrFastapiReply")),
)

_FORMS = {"form": ("text", "json")}
_TEXT_OR_JSON = Reply(
    "The text, or an object; an error is an empty text, or in msg.",
    {**TEXT_REPLY, JSON_TYPE: ref("OcrApiServerReply")},
    ("X-Cache",),
)
_TEXT_ALONE = Reply("The text; empty where there is none.", TEXT_REPLY, ("X-Cache",))
_FILE_FORM: Mapping[str, Schema] = {FORM_TYPE: form_with("image", IMAGE_FILE)}
_TAG = "ddddocr's servers"

DIALECT_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "get", "/ping", "ping", _TAG, "Whether the process is up, for ocr_api_server's callers", "",
        {200: Reply("The text pong.", TEXT_REPLY)},
    ),
    Operation(
        "post", "/ocr/file", "readFile", _TAG, "Read a file",
        "A file `file` is answered as `ddddocr api` does, a file `image` as ocr_api_server does.",
        {
            200: Reply(
                "An object for file, the bare text for image.",
                {JSON_TYPE: ref("DdddocrApiReply"), **TEXT_REPLY}, ("X-Cache",),
            )
        },
        bodies={
            FORM_TYPE: any_of(
                form_with("file", IMAGE_FILE, **_API_FIELDS), form_with("image", IMAGE_FILE)
            )
        },
        takes_options=True,
        errors=SINGLE_ERRORS,
        error_shapes=("DdddocrApiError",),
    ),
    Operation(
        "post", "/ocr/file/{form}", "readFileAs", _TAG, "Read a file, for ocr_api_server's callers",
        "", {200: _TEXT_OR_JSON},
        bodies=_FILE_FORM, takes_options=True, errors=(NotFound,), path_values=_FORMS,
        guarded=False,
    ),
    Operation(
        "post", "/ocr/b64", "readBase64", _TAG, "Read base64, for ocr_api_server's callers",
        "The body is the text.", {200: _TEXT_ALONE},
        bodies={TEXT_TYPE: BASE64}, takes_options=True, guarded=False,
    ),
    Operation(
        "post", "/ocr/b64/{form}", "readBase64As", _TAG,
        "Read base64, for ocr_api_server's callers", "The body is the text.", {200: _TEXT_OR_JSON},
        bodies={TEXT_TYPE: BASE64}, takes_options=True, errors=(NotFound,), path_values=_FORMS,
        guarded=False,
    ),
    Operation(
        "post", "/set_charset_range", "setCharsetRange", _TAG, "Not offered",
        "It changed a setting under all callers; charset_range is an option of each request.", {},
        errors=(Gone,), error_shapes=("DdddocrApiError",),
    ),
)  # fmt: skip
