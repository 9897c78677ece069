"""Settings that are fine alone but not together.

Responsible for: finding them, and the line that says so. Invariant: every line names a variable,
its value and what is allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwen_captcha.settings import Settings


def broken_relation(settings: Settings) -> str | None:
    """Return the line that refuses the settings, None where they fit together."""
    for low, high, why in (
        ("min_pixels", "max_pixels", "an image is resized to lie between the two"),
        ("max_batch_images", "max_queue_size", "a whole batch must fit into the queue"),
        ("max_image_bytes", "max_body_bytes", "an image must fit into a request"),
    ):
        if getattr(settings, low) > getattr(settings, high):
            return _relation(settings, low, f"at most {_shown(settings, high)}", why)
    if settings.http_threads <= settings.max_queue_size:
        return _relation(
            settings,
            "http_threads",
            f"more than {_shown(settings, 'max_queue_size')}",
            "each accepted image may hold a thread and /health needs one",
        )
    return _missing_companion(settings)


def _missing_companion(settings: Settings) -> str | None:
    """Return the line about a setting that is of no use without another one."""
    if settings.qwen_backend == "openai" and not settings.openai_base_url:
        return (
            "QWEN_BACKEND=openai cannot be used: it must come with OPENAI_BASE_URL, the address "
            "of the server, such as http://127.0.0.1:8000/v1."
        )
    if settings.rate_limit_per_key and not settings.api_keys:
        return (
            f"{_shown(settings, 'rate_limit_per_key')} cannot be used: it must come with API_KEYS, "
            "whose use it limits."
        )
    return None


def _shown(settings: Settings, field: str) -> str:
    """Return a setting as one would write it into the environment."""
    return f"{field.upper()}={getattr(settings, field)}"


def _relation(settings: Settings, field: str, allowed: str, why: str) -> str:
    """Return the line that refuses a setting because of another one."""
    return f"{_shown(settings, field)} cannot be used: it must be {allowed}, because {why}."
