"""The description of one route, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from qwen_captcha.api.openapi.schemas import Schema, any_of
from qwen_captcha.errors import CaptchaServiceError

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
FORM_TYPE = "multipart/form-data"
URLENCODED_TYPE = "application/x-www-form-urlencoded"

Errors = tuple[type[CaptchaServiceError], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply of a route with one status, other than an error.

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
        name: Unique; generated clients name their function so.
        tag: The heading under which the route is listed.
        summary: A few words.
        description: Information beyond the schemas.
        replies: By status.
        bodies: The schema of the request body by media type; empty: there is none.
        takes_options: Whether the query has `OPTION_FIELDS`, too.
        errors: The errors that the view may raise.
        error_shapes: The names of the schemas of these errors.
        path_values: The values of each variable part of the path.
        needs: The setting that enables the route; empty if the route always exists.
        guarded: Whether access control replies with an error status; False where the status of
            all errors is 200.
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


def merged(first: Operation, second: Operation) -> Operation:
    """Return one route for the requests of two that have the same path and method.

    Name, tag, summary and errors are those of the first.
    """
    shapes = dict.fromkeys((*first.error_shapes, *second.error_shapes))
    replies = dict(first.replies)
    for status, reply in second.replies.items():
        other = replies.get(status)
        replies[status] = reply if other is None else _merged_replies(other, reply)
    return replace(
        first,
        description=f"{first.description} {second.description}".strip(),
        replies=replies,
        bodies=_merged_schemas(first.bodies, second.bodies),
        error_shapes=tuple(shapes),
    )


def _merged_replies(first: Reply, second: Reply) -> Reply:
    return replace(
        first,
        description=f"{first.description} {second.description}".strip(),
        content=_merged_schemas(first.content, second.content),
    )


def _merged_schemas(
    first: Mapping[str, Schema], second: Mapping[str, Schema]
) -> Mapping[str, Schema]:
    """Return all schemas by media type; where both have one, a value may fit either."""
    both = {name: any_of(first[name], schema) for name, schema in second.items() if name in first}
    return {**first, **second, **both}


def json_reply(description: str, schema: Schema, *headers: str) -> Reply:
    """Return a reply that is JSON."""
    return Reply(description, {JSON_TYPE: schema}, headers)
