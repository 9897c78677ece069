"""The options of a request: JSON Schema, allowed values and effect of each.

A value fits an option's schema exactly if `parse_options` accepts it; a test compares both. The
descriptions are Markdown, for the OpenAPI document and for the table in the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from qwen_captcha.api.openapi.schemas import Schema, object_of
from qwen_captcha.images.colors import COLOR_RANGES, MAX_HUE, MAX_LEVEL
from qwen_captcha.recognition.charsets import CHARSET_RANGES
from qwen_captcha.recognition.options import (
    MAX_CHARSET_CHARACTERS,
    MAX_LENGTH,
    MAX_PROMPT_CHARACTERS,
    Case,
    Kind,
)
from qwen_captcha.value_parsers import FALSE_WORDS, TRUE_WORDS


@dataclass(frozen=True, slots=True)
class OptionField:
    """One option of a request.

    Attributes:
        name: Its name in a form, in JSON and in the query.
        values: Its values in a few words.
        help: Its effect, in sentences.
        text: The schema of its value as a text, which is all that a form and a query have.
        json_types: Further schemas of its value in JSON, beside the text and null.
    """

    name: str
    values: str
    help: str
    text: Schema
    json_types: tuple[Schema, ...] = ()

    @property
    def json(self) -> Schema:
        """The schema of its value in JSON; null is treated as missing."""
        return {"anyOf": [self.text, *self.json_types, {"type": "null"}]}


def word_in_any_case(word: str) -> str:
    """Return the pattern of a word in any letter case; JSON Schema patterns have no flags."""
    return "".join(f"[{letter.upper()}{letter}]" for letter in word)


def _choice(name: str, choices: type[StrEnum], help_text: str) -> OptionField:
    """Return an option that is one of some words."""
    words = "|".join(word_in_any_case(choice.value) for choice in choices)
    exact = {"type": "string", "enum": [choice.value for choice in choices]}
    tolerated = {
        "type": "string",
        "pattern": rf"^\s*(?:{words})?\s*$",
        "description": "The same in any letter case; a blank text is treated as missing.",
    }
    values = ", ".join(f"`{choice}`" for choice in choices)
    return OptionField(name, values, help_text, {"anyOf": [exact, tolerated]})


def _range_number() -> OptionField:
    """Return the option that names one of ddddocr's ranges."""
    numbers = sorted(CHARSET_RANGES)
    digits = "".join(str(number) for number in numbers)
    return OptionField(
        "charset_range",
        f"{numbers[0]} to {numbers[-1]}",
        "The allowed characters by ddddocr's number: 0 digits, 1 lower case, 2 upper case, 3 both "
        "cases, 4 lower case and digits, 5 upper case and digits, 6 both cases and digits, 7 "
        "all others. Excludes `charset`.",
        {"type": "string", "pattern": rf"^\s*[{digits}]?\s*$", "examples": ["6"]},
        ({"type": "integer", "enum": numbers},),
    )


def _length() -> OptionField:
    """Return the option for the number of characters."""
    number = number_up_to(MAX_LENGTH)
    return OptionField(
        "length",
        "`4` or `4-6`",
        "Number of characters in the text, or a range of numbers.",
        {
            "type": "string",
            "pattern": rf"^\s*(?:{number}(?: *- *{number})?)?\s*$",
            "examples": ["4-6"],
        },
        ({"type": "integer", "minimum": 1, "maximum": MAX_LENGTH},),
    )


def number_up_to(highest: int) -> str:
    """Return the pattern of a number from 1 to `highest`, which has two digits."""
    tens, ones = divmod(highest, 10)
    return rf"(?:0?[1-9]|[1-{tens - 1}][0-9]|{tens}[0-{ones}])"


def _flag(name: str, help_text: str) -> OptionField:
    """Return an option that is on or off."""
    words = "|".join(word_in_any_case(word) for word in TRUE_WORDS + FALSE_WORDS)
    return OptionField(
        name,
        "`true`, `false`",
        help_text,
        {"type": "string", "pattern": rf"^\s*(?:{words})?\s*$", "examples": ["true"]},
        ({"type": "boolean"}, {"type": "integer", "enum": [0, 1]}),
    )


def _share(name: str, help_text: str) -> OptionField:
    """Return an option that is a number from 0 to 1."""
    number = r"\+?(?:0+(?:\.[0-9]*)?|\.[0-9]+|0*1(?:\.0*)?)"
    return OptionField(
        name,
        "0 to 1",
        help_text,
        {"type": "string", "pattern": rf"^\s*(?:{number})?\s*$", "examples": ["0.9"]},
        ({"type": "number", "minimum": 0, "maximum": 1},),
    )


def _colors() -> OptionField:
    """Return the option that names the colors of the characters to read."""
    colors = ", ".join(f"`{name}`" for name in COLOR_RANGES)
    return OptionField(
        "colors",
        "names",
        f"Only characters of these colors are read: {colors}, with ddddocr's ranges, or names in "
        "`custom_color_ranges`. A JSON list, or names with commas between them.",
        {"type": "string", "examples": ["red,blue"]},
        ({"type": "array", "items": {"type": "string"}},),
    )


def _custom_colors() -> OptionField:
    """Return the option that defines further colors."""
    example = '{"pink": [[150, 30, 100], [175, 150, 255]]}'
    bound = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": MAX_LEVEL},
        "minItems": 3,
        "maxItems": 3,
    }
    return OptionField(
        "custom_color_ranges",
        f"`{example}`",
        "Further names for `colors`, each with a lower and an upper bound of hue (0 to "
        f"{MAX_HUE}), saturation and value (0 to {MAX_LEVEL}), or several such pairs in a row. In "
        "a form and in the query it is the text of that JSON.",
        {"type": "string", "examples": [example]},
        ({"type": "object", "additionalProperties": {"type": "array", "items": bound}},),
    )


OPTION_FIELDS: tuple[OptionField, ...] = (
    OptionField(
        "prompt",
        "a text",
        "Replaces the default instruction, for models that follow one.",
        {"type": "string", "maxLength": MAX_PROMPT_CHARACTERS},
    ),
    _choice(
        "kind",
        Kind,
        "Type of the captcha. `digits` and `chinese` allow only such characters, `math` only those "
        "of arithmetic; `text` is never computed, and a model that only transcribes then reads "
        "letters and digits only.",
    ),
    OptionField(
        "charset",
        "a text",
        "The allowed characters. Excludes `charset_range`.",
        {"type": "string", "maxLength": MAX_CHARSET_CHARACTERS, "examples": ["0123456789"]},
    ),
    _range_number(),
    _length(),
    _choice(
        "case",
        Case,
        "Makes both cases of a letter one: their probabilities add up.",
    ),
    _flag(
        "details",
        "Adds `details`: the confidence of each character, which with that of the end multiply to "
        "the answer's, and up to five other answers, which differ in more than letter case; under "
        "2 KB.",
    ),
    _share(
        "min_confidence",
        'Answers below it get `"low_confidence": true`; `success` stays true. Fetch a new captcha '
        "instead of submitting one of them.",
    ),
    _colors(),
    _custom_colors(),
)


def form_with(required: str, schema: Schema, **others: Schema) -> Schema:
    """Return a form with one required field, and the options.

    Args:
        required: The name of the field.
        schema: Its schema.
        **others: Further fields; one with the name of an option replaces it.
    """
    texts = {option.name: described(option, option.text) for option in OPTION_FIELDS}
    return object_of({required: schema}, **{**texts, **others})


def json_with(required: str, schema: Schema, **others: Schema) -> Schema:
    """Return a JSON object with one required field, and the options; see `form_with`."""
    values = {option.name: described(option, option.json) for option in OPTION_FIELDS}
    return object_of({required: schema}, **{**values, **others})


def described(option: OptionField, schema: Schema) -> Schema:
    """Return a schema of an option's value with the option's description."""
    return {**schema, "description": option.help}
