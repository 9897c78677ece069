"""The options of a request as JSON Schemas.

Responsible for: the schema of each option, written on the limits and words of `options.py`.
Invariant: a value fits an option's schema exactly if `parse_options` takes it; a test holds both in
step.
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
        help: What it does, in sentences.
        text: The schema of its value as a text, which is all that a form and a query have.
        json_types: Schemas of what it may be in JSON beside such a text and null.
    """

    name: str
    help: str
    text: Schema
    json_types: tuple[Schema, ...] = ()

    @property
    def json(self) -> Schema:
        """The schema of its value in JSON; null counts as not given."""
        return {"anyOf": [self.text, *self.json_types, {"type": "null"}]}


def word_in_any_case(word: str) -> str:
    """Return the pattern of a word in any mixture of cases: patterns have no flag for that."""
    return "".join(f"[{letter.upper()}{letter}]" for letter in word)


def _choice(name: str, choices: type[StrEnum], help_text: str) -> OptionField:
    """Return an option that is one of some words."""
    words = "|".join(word_in_any_case(choice.value) for choice in choices)
    exact = {"type": "string", "enum": [choice.value for choice in choices]}
    tolerated = {
        "type": "string",
        "pattern": rf"^\s*(?:{words})?\s*$",
        "description": "The same in any case; a blank text counts as not given.",
    }
    return OptionField(name, help_text, {"anyOf": [exact, tolerated]})


def _range_number() -> OptionField:
    """Return the option that names one of ddddocr's ranges."""
    numbers = sorted(CHARSET_RANGES)
    digits = "".join(str(number) for number in numbers)
    return OptionField(
        "charset_range",
        "The allowed characters by ddddocr's number: 0 digits, 1 lower case, 2 upper case, 3 both "
        "cases, 4 lower case and digits, 5 upper case and digits, 6 both cases and digits, 7 "
        "anything but these. Excludes charset.",
        {"type": "string", "pattern": rf"^\s*[{digits}]?\s*$", "examples": ["6"]},
        ({"type": "integer", "enum": numbers},),
    )


def _length() -> OptionField:
    """Return the option that says how many characters there are."""
    number = number_up_to(MAX_LENGTH)
    return OptionField(
        "length",
        "How many characters are read: a number, or a range from fewest to most such as 4-6.",
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
        help_text,
        {"type": "string", "pattern": rf"^\s*(?:{words})?\s*$", "examples": ["true"]},
        ({"type": "boolean"}, {"type": "integer", "enum": [0, 1]}),
    )


def _share(name: str, help_text: str) -> OptionField:
    """Return an option that is a number from 0 to 1."""
    number = r"\+?(?:0+(?:\.[0-9]*)?|\.[0-9]+|0*1(?:\.0*)?)"
    return OptionField(
        name,
        help_text,
        {"type": "string", "pattern": rf"^\s*(?:{number})?\s*$", "examples": ["0.9"]},
        ({"type": "number", "minimum": 0, "maximum": 1},),
    )


def _colors() -> OptionField:
    """Return the option that names the colors of the characters to read."""
    return OptionField(
        "colors",
        f"The colors of the characters to read: {', '.join(COLOR_RANGES)}, or names that "
        "custom_color_ranges defines. As a text with commas between them or a JSON list.",
        {"type": "string", "examples": ["red,blue"]},
        ({"type": "array", "items": {"type": "string"}},),
    )


def _custom_colors() -> OptionField:
    """Return the option that defines further colors."""
    bound = {
        "type": "array",
        "items": {"type": "integer", "minimum": 0, "maximum": MAX_LEVEL},
        "minItems": 3,
        "maxItems": 3,
    }
    return OptionField(
        "custom_color_ranges",
        "Further names for colors, each with a lower and an upper bound of hue (0 to "
        f"{MAX_HUE}), saturation and value (0 to {MAX_LEVEL}), or several such pairs in a row.",
        {"type": "string", "examples": ['{"pink": [[150, 30, 100], [175, 150, 255]]}']},
        ({"type": "object", "additionalProperties": {"type": "array", "items": bound}},),
    )


OPTION_FIELDS: tuple[OptionField, ...] = (
    OptionField(
        "prompt",
        "The caller's own instruction to the model; it replaces the default one.",
        {"type": "string", "maxLength": MAX_PROMPT_CHARACTERS},
    ),
    _choice("kind", Kind, "What the captcha shows, where it is known; the default is auto."),
    _choice("case", Case, "What happens to the case of letters; the default is keep."),
    OptionField(
        "charset",
        "The allowed characters. Excludes charset_range.",
        {"type": "string", "maxLength": MAX_CHARSET_CHARACTERS, "examples": ["0123456789"]},
    ),
    _range_number(),
    _length(),
    _flag("details", "Whether to tell each character's confidence and other readings."),
    _share("min_confidence", "Answers with less confidence say so in low_confidence."),
    _colors(),
    _custom_colors(),
)


def form_with(required: str, schema: Schema, **others: Schema) -> Schema:
    """Return a form with one field that is needed, and the options.

    Args:
        required: The name of the field.
        schema: Its schema.
        **others: Fields beside the options, or in place of some.
    """
    texts = {option.name: described(option, option.text) for option in OPTION_FIELDS}
    return object_of({required: schema}, **{**texts, **others})


def json_with(required: str, schema: Schema, **others: Schema) -> Schema:
    """Return a JSON object with one field that is needed, and the options, as `form_with` does."""
    values = {option.name: described(option, option.json) for option in OPTION_FIELDS}
    return object_of({required: schema}, **{**values, **others})


def described(option: OptionField, schema: Schema) -> Schema:
    """Return a schema of an option's value that says what the option does."""
    return {**schema, "description": option.help}
