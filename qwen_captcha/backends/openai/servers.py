"""The table of servers with OpenAI's protocol: their extensions and formats of constraints.

A server receives only fields in its documentation, because some reject unknown fields and others
ignore them silently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from qwen_captcha.recognition.charsets import Charset
from qwen_captcha.recognition.constraints import DecodingConstraints

# Neither control characters nor surrogates can be written into a pattern or a grammar.
_WRITABLE = Charset.between((0x20, 0x7E), (0xA0, 0xD7FF), (0xE000, 0xFFFD), (0x10000, 0x10FFFF))
_SPECIAL = frozenset("\\]^-[")


@dataclass(frozen=True, slots=True)
class ServerTraits:
    """One kind of server.

    Attributes:
        owner: The `owned_by` of the models that it lists; None if that identifies no server.
        token_probabilities: Whether it reports the probabilities of tokens.
        further_fields: Fields of each request, against a penalty on repetitions.
        constraint_fields: Returns the fields for constraints; None if it supports none.
        lists_models: Whether `/models` lists the models that it serves.
    """

    owner: str | None = None
    token_probabilities: bool = True
    further_fields: Mapping[str, object] = field(default_factory=dict)
    constraint_fields: Callable[[DecodingConstraints], dict[str, object]] | None = None
    lists_models: bool = True


def pattern_of(constraints: DecodingConstraints) -> str:
    """Return a regular expression of the responses that are allowed."""
    return _characters(constraints.charset) + _times(constraints)


def grammar_of(constraints: DecodingConstraints) -> str:
    """Return a grammar in llama.cpp's notation (GBNF) of the responses that are allowed."""
    return f"root ::= {_characters(constraints.charset)}{_times(constraints)}"


def _characters(charset: Charset | None) -> str:
    """Return a class of characters, which both notations write in the same way."""
    if charset is None:
        return r"[^\n]"
    runs = (charset & _WRITABLE).ranges
    return "[" + "".join(_run(first, last) for first, last in runs) + "]"


def _run(first: int, last: int) -> str:
    # The two notations have different escapes of punctuation, but share those by code point.
    start, end = (f"\\x{ord(c):02X}" if c in _SPECIAL else c for c in (chr(first), chr(last)))
    return start if first == last else f"{start}-{end}"


def _times(constraints: DecodingConstraints) -> str:
    longest = "" if constraints.max_length is None else constraints.max_length
    return f"{{{constraints.min_length},{longest}}}"


SERVERS: Mapping[str, ServerTraits] = {
    "vllm": ServerTraits(
        owner="vllm",
        further_fields={"repetition_penalty": 1.0},
        constraint_fields=lambda wanted: {"structured_outputs": {"regex": pattern_of(wanted)}},
    ),
    "sglang": ServerTraits(
        owner="sglang",
        further_fields={"repetition_penalty": 1.0},
        constraint_fields=lambda wanted: {"regex": pattern_of(wanted)},
    ),
    "lmdeploy": ServerTraits(
        owner="lmdeploy",
        further_fields={"repetition_penalty": 1.0},
        constraint_fields=lambda wanted: {
            "response_format": {"type": "regex_schema", "regex_schema": pattern_of(wanted)}
        },
    ),
    "llama": ServerTraits(
        owner="llamacpp",
        further_fields={"repeat_penalty": 1.0},
        constraint_fields=lambda wanted: {"grammar": grammar_of(wanted)},
    ),
    # Its repetition penalty is 1 + `frequency_penalty`, a field of OpenAI that every request has.
    # Its `/models` lists the model cache, and fails where there is none.
    "transformers": ServerTraits(token_probabilities=False, lists_models=False),
    "openai": ServerTraits(),
}


def server_of(owners: set[str]) -> str:
    """Return the server whose models have these `owned_by`; `openai` if none is known."""
    return next((name for name, traits in SERVERS.items() if traits.owner in owners), "openai")
