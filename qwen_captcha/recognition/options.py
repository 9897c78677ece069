"""The options of one request: names, types and allowed values.

The names are the same in a form, in JSON and in the query. An `Options` is valid, hashable and
normalized: equal requests give equal values, so that it can be part of a cache key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from qwen_captcha.errors import InvalidOption
from qwen_captcha.images.colors import COLOR_RANGES, MAX_HUE, MAX_LEVEL, HsvRange
from qwen_captcha.recognition.charsets import CHARSET_RANGES, Charset
from qwen_captcha.value_parsers import boolean, decimal_number

MAX_PROMPT_CHARACTERS = 2000
# Chinese charsets are long: ddddocr's own has 8,210 characters.
MAX_CHARSET_CHARACTERS = 20_000
# Longest part of a rejected value that an error message repeats.
MAX_QUOTED_CHARACTERS = 40

# No captcha shows more characters.
MAX_LENGTH = 64

_LENGTH = re.compile("([0-9]{1,2})(?: *- *([0-9]{1,2}))?")

# The fields of a request; an earlier source takes precedence over a later one.
Sources = tuple[Mapping[str, object], ...]
_share = decimal_number(0.0, 1.0)

Parsed = TypeVar("Parsed")
Choice = TypeVar("Choice", bound=StrEnum)


class Kind(StrEnum):
    """The kind of text that a captcha shows."""

    AUTO = "auto"
    TEXT = "text"
    DIGITS = "digits"
    CHINESE = "chinese"
    MATH = "math"
    QUESTION = "question"


class Case(StrEnum):
    """The conversion of the case of the letters read."""

    KEEP = "keep"
    LOWER = "lower"
    UPPER = "upper"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one request.

    Attributes:
        prompt: The caller's own instruction, trimmed; None for the default one.
        kind: The kind of text that the captcha shows.
        case: The conversion of the case of letters.
        charset: The allowed characters; None allows all.
        length: Minimum and maximum characters of the text that is read; None allows any number.
        details: Also return each character's confidence and other readings.
        min_confidence: Answers with less are marked.
        colors: Ranges of the colors that the characters to read have; empty for all colors.
    """

    prompt: str | None = None
    kind: Kind = Kind.AUTO
    case: Case = Case.KEEP
    charset: Charset | None = None
    length: tuple[int, int] | None = None
    details: bool = False
    min_confidence: float = 0.0
    colors: tuple[HsvRange, ...] = ()


def parse_options(
    *sources: Mapping[str, object], max_prompt_characters: int = MAX_PROMPT_CHARACTERS
) -> Options:
    """Validate the options among the fields of a request.

    An empty or whitespace-only text and a JSON null are treated as missing, because HTML forms send
    their empty fields. Unknown fields are ignored, because old callers send extras.

    Args:
        *sources: Fields of the request. For each option the first source that has it is used.
        max_prompt_characters: Maximum length of the prompt.

    Raises:
        InvalidOption: A value has the wrong type or is not allowed, or options exclude each
            other.
    """
    return Options(
        prompt=_text(sources, "prompt", max_prompt_characters),
        kind=_choice(sources, "kind", Kind.AUTO),
        case=_choice(sources, "case", Case.KEEP),
        charset=_charset(sources),
        length=_length(sources),
        details=_parsed(sources, "details", False, boolean, "true or false"),
        min_confidence=_parsed(sources, "min_confidence", 0.0, _share, "a number from 0 to 1"),
        colors=_colors(sources),
    )


def _given(sources: Sources, name: str) -> object:
    """Return the value of an option in the first source that has it, or None."""
    for source in sources:
        value = source.get(name)
        if isinstance(value, str):
            value = value.strip() or None
        if value is not None:
            return value
    return None


def _text(sources: Sources, name: str, max_characters: int) -> str | None:
    """Return a text option of at most `max_characters`, or None where it is not given."""
    value = _given(sources, name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _invalid(name, value, "a text")
    if len(value) > max_characters:
        raise _invalid(name, value, f"a text of at most {max_characters} characters")
    # JSON can spell half a surrogate pair, which no tokenizer and no log file can encode.
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise _invalid(name, value, "a text of valid Unicode characters")
    return value


def _choice(sources: Sources, name: str, default: Choice) -> Choice:
    """Return the member of the default's enumeration that an option names, in any case."""
    value = _given(sources, name)
    if value is None:
        return default
    choices = list(type(default))
    for choice in choices:
        if isinstance(value, str) and value.lower() == choice.value:
            return choice
    raise _invalid(name, value, "one of " + ", ".join(choices))


def _charset(sources: Sources) -> Charset | None:
    """Return the allowed characters from `charset` or `charset_range`, whichever is given."""
    # Only the first source that has either option is used, as for an option with one name.
    for source in sources:
        given = [_given((source,), name) for name in ("charset", "charset_range")]
        if given != [None, None]:
            sources = (source,)
            break
    characters = _text(sources, "charset", MAX_CHARSET_CHARACTERS)
    charset_range = _given(sources, "charset_range")
    if characters is not None and charset_range is not None:
        raise InvalidOption("charset and charset_range exclude each other: give only one of them.")
    if charset_range is not None:
        return _resolve_range(charset_range)
    if characters is None:
        return None
    return Charset.of(character for character in characters if not character.isspace())


def _resolve_range(value: object) -> Charset:
    """Return the characters that one of ddddocr's range numbers, or its text, stands for."""
    ranges = {str(number): characters for number, characters in CHARSET_RANGES.items()}
    # str(True) is not a number's text, so a boolean is rejected, although True == 1.
    key = str(value) if isinstance(value, (int, str)) else ""
    if key not in ranges:
        raise _invalid("charset_range", value, "one of ddddocr's numbers 0 to 7")
    return ranges[key]


def _length(sources: Sources) -> tuple[int, int] | None:
    """Return the minimum and maximum characters from a number or a range such as `4-6`."""
    value = _given(sources, "length")
    if value is None:
        return None
    # str(True) is not a number's text, so a boolean is rejected, although True == 1.
    match = _LENGTH.fullmatch(str(value)) if isinstance(value, (int, str)) else None
    if match is not None:
        shortest, longest = int(match[1]), int(match[2] or match[1])
        if 1 <= shortest <= longest <= MAX_LENGTH:
            return shortest, longest
    allowed = f"a number of characters from 1 to {MAX_LENGTH} or a range such as 4-6"
    raise _invalid("length", value, allowed)


def _colors(sources: Sources) -> tuple[HsvRange, ...]:
    """Return the ranges of the names in `colors`, ddddocr's or the caller's own."""
    own = _own_colors(_json_value(sources, "custom_color_ranges"))
    known: dict[str, Sequence[HsvRange]] = {**COLOR_RANGES, **own}
    value = _json_value(sources, "colors")
    names = value.split(",") if isinstance(value, str) else ([] if value is None else value)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _invalid("colors", value, "a list of names")
    words = [word for name in names if (word := name.strip().lower())]
    for word in words:
        if word not in known:
            allowed = f"of {', '.join(known)}; others are defined by custom_color_ranges"
            raise _invalid("colors", word, allowed)
    if own and not words:
        raise InvalidOption("custom_color_ranges defines colors; name those to keep in colors.")
    return tuple(sorted({color for word in words for color in known[word]}))


def _own_colors(value: object) -> dict[str, Sequence[HsvRange]]:
    """Return the caller's own colors by name, each of a lower and an upper bound or more pairs."""
    allowed = (
        f'an object such as {{"pink": [[150, 30, 100], [175, 150, 255]]}} of names with lower and '
        f"upper bounds of hue (0 to {MAX_HUE}), saturation and value (0 to {MAX_LEVEL})"
    )
    if not isinstance(value, dict | None):
        raise _invalid("custom_color_ranges", value, allowed)
    own: dict[str, Sequence[HsvRange]] = {}
    for name, bounds in (value or {}).items():
        if not isinstance(bounds, list) or not bounds or len(bounds) % 2:
            raise _invalid("custom_color_ranges", value, allowed)
        pairs = zip(bounds[::2], bounds[1::2], strict=True)
        ranges = [HsvRange(tuple(low), tuple(high)) for low, high in pairs if _is_range(low, high)]
        if 2 * len(ranges) < len(bounds):
            raise _invalid("custom_color_ranges", value, allowed)
        own[name.strip().lower()] = ranges
    return own


def _is_range(lower: object, upper: object) -> bool:
    """Return whether two values are bounds of hue, saturation and value, in that order."""
    limits = (MAX_HUE, MAX_LEVEL, MAX_LEVEL)
    if not (isinstance(lower, list) and isinstance(upper, list)):
        return False
    if not len(lower) == len(upper) == len(limits):
        return False
    # A boolean is an integer to Python.
    whole = all(type(level) is int for level in (*lower, *upper))
    return whole and all(
        0 <= low <= high <= limit for low, high, limit in zip(lower, upper, limits, strict=True)
    )


def _json_value(sources: Sources, name: str) -> object:
    """Return an option that a form and a query have as the text of a JSON list or object."""
    value = _given(sources, name)
    if not isinstance(value, str) or (value[0] not in "[{" and value != "null"):
        return value
    try:
        return json.loads(value)
    # Thousands of nested brackets end in a RecursionError.
    except (ValueError, RecursionError):
        raise _invalid(name, value, "valid JSON") from None


def _parsed(
    sources: Sources, name: str, default: Parsed, parse: Callable[[str], Parsed], allowed: str
) -> Parsed:
    """Return an option whose value is a JSON scalar, or a text as in a setting."""
    value = _given(sources, name)
    if value is None:
        return default
    try:
        return parse(str(value) if isinstance(value, (str, int, float)) else "")
    except ValueError as error:
        raise _invalid(name, value, allowed) from error


def _invalid(name: str, value: object, allowed: str) -> InvalidOption:
    """Return the error that names the option, its value in short, and what is allowed."""
    # Only scalars are repeated: the repr of deeply nested JSON recurses too far.
    scalar = isinstance(value, (str, int, float))
    quoted = repr(value) if scalar else f"of type {type(value).__name__}"
    if len(quoted) > MAX_QUOTED_CHARACTERS:
        quoted = quoted[:MAX_QUOTED_CHARACTERS] + "…"
    return InvalidOption(f"{name} is {quoted}, but it must be {allowed}.")
