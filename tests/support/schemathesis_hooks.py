"""Hooks for schemathesis: real images, and a check of rejections with status 200."""

from typing import Any

import schemathesis
from hypothesis import strategies

from tests.support.fake_backend import image_bytes

IMAGES = strategies.sampled_from(
    [image_bytes(120), image_bytes(90, 30, "GIF"), image_bytes(3, 3, "BMP"), b"no image", b""]
)

schemathesis.openapi.media_type("image/png", IMAGES)
schemathesis.openapi.media_type("application/octet-stream", IMAGES)


def has_answer(body: bytes, fields: dict[str, Any] | None) -> bool:
    """Return whether a reply with status 200 holds a captcha's text, in whatever dialect."""
    if fields is None:
        return body != b""
    return bool(fields.get("success") or fields.get("result") or fields.get("code") == 200)


@schemathesis.check
def what_is_wrong_gets_no_answer(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Check that a request that breaks the description is not read."""
    negative = case.meta is not None and case.meta.generation.mode.is_negative
    if not (negative and case.path.startswith("/ocr") and response.status_code == 200):
        return
    is_json = response.headers["content-type"][0].startswith("application/json")
    assert not has_answer(response.content, response.json() if is_json else None)
