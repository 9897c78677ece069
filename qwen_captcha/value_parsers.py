"""Parsers of the texts of settings: numbers, choices, addresses, keys.

A parser returns a value within its range or raises ValueError. It rejects spellings that only
Python accepts, such as `1_000` or digits of other scripts.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")
MIN_KEY_CHARACTERS = 16
# Of plain characters alone: an origin with others may be taken for a regular expression.
_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
_HOST_NAME = re.compile(r"(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]*[A-Za-z][A-Za-z0-9_-]*\.?")
_RATE = re.compile("[1-9][0-9]{0,8}/(second|minute|hour|day)")


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that no log and no error message shows."""

    value: str = field(default="", repr=False)


def secret(text: str) -> Secret:
    """Return a text that can be sent in an HTTP header, hidden."""
    if not all("!" <= character <= "~" for character in text):
        raise ValueError
    return Secret(text)


def parse_api_keys(text: str) -> tuple[Secret, ...]:
    """Return the keys in a list with commas, hidden; short ones could be guessed."""
    keys = tuple(secret(part.strip()) for part in text.split(",") if part.strip())
    # Nothing but commas comes of variables that are not set: it must not open the service.
    if any(len(key.value) < MIN_KEY_CHARACTERS for key in keys) or (text.strip() and not keys):
        raise ValueError
    return keys


def rate(text: str) -> str:
    """Return a number of requests in a span of time, empty for any number."""
    if text and not _RATE.fullmatch(text):
        raise ValueError(text)
    return text


def origins(text: str) -> tuple[str, ...]:
    """Return the origins in a list with commas: addresses without a path, or `*` for any."""
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    for part in parts:
        if part != "*" and not (_ORIGIN.fullmatch(part) and web_address(part)):
            raise ValueError(text)
    return parts


def web_address(text: str) -> str:
    """Return an http or https address without a slash at its end; empty for none."""
    parts = urlsplit(text)
    # A password in the address would be shown wherever the address is.
    if text and (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or parts.query
        or parts.fragment
        or parts.port == 0
    ):
        raise ValueError(text)
    return text.rstrip("/")


def listening_address(text: str) -> str:
    """Return a host name or an address, an IPv6 one without its brackets."""
    if _HOST_NAME.fullmatch(text):
        return text
    if text.startswith("[") and text.endswith("]"):
        return str(ipaddress.IPv6Address(text[1:-1]))
    return str(ipaddress.ip_address(text))


def boolean(text: str) -> bool:
    """Return the value of a yes-or-no word in any case."""
    word = text.lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError(text)
    return word in TRUE_WORDS


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers from `low` to `high`, neither negative."""

    def parse(text: str) -> int:
        # The length first: int() of thousands of digits raises an error of its own.
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(high))):
            raise ValueError(text)
        number = int(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return parse


def decimal_number(low: float, high: float) -> Callable[[str], float]:
    """Return a parser of finite decimal numbers from `low` to `high`."""

    def parse(text: str) -> float:
        if "_" in text or not text.isascii():
            raise ValueError(text)
        number = float(text)
        if not (math.isfinite(number) and low <= number <= high):
            raise ValueError(text)
        return number

    return parse


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Return a parser of one of some words in lower case, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(text)
        return text.lower()

    return parse
