"""What there is to say about one route.

Responsible for: the two kinds of entries in the tables of routes. Invariant: plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qwen_captcha.api.openapi.schemas import Schema
from qwen_captcha.errors import CaptchaServiceError

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
FORM_TYPE = "multipart/form-data"
URLENCODED_TYPE = "application/x-www-form-urlencoded"

Errors = tuple[type[CaptchaServiceError], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a route answers with one status, errors apart.

    Attributes:
        description: When it is sent.
        content: The schema of the body by media type.
        headers: Names in `document.HEADERS`.
    """

    description: str
    content: Mapping[str, Schema]
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One route for one method.

    Attributes:
        method: In lower case.
        path: As OpenAPI writes it, with `{name}` for a variable part.
        name: Unique, the name of a generated client's function.
        tag: What it is listed under.
        summary: A few words.
        description: What has to be known beyond the schemas.
        replies: By status.
        bodies: The schema of the request body by media type; empty: there is none.
        takes_options: Whether the query has `OPTION_FIELDS`, too.
        errors: What may be raised on the way.
        error_shapes: The names of the schemas that such an error has.
        path_values: What a variable part of the path may be.
        needs: The setting without which the route is not there; empty for none.
        guarded: Whether rejections of keys and rates have a status; 200 where all errors have.
    """

    method: str
    path: str
    name: str
    tag: str
    summary: str
    description: str
    replies: Mapping[int, Reply]
    bodies: Mapping[str, Schema] = field(default_factory=dict)
    takes_options: bool = False
    errors: Errors = ()
    error_shapes: tuple[str, ...] = ("Error",)
    path_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: str = ""
    guarded: bool = True


def json_reply(description: str, schema: Schema, *headers: str) -> Reply:
    """Return a reply that is JSON."""
    return Reply(description, {JSON_TYPE: schema}, headers)
