"""The texts that a response may be, from the options of a request.

Equal requests give equal constraints.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen_captcha.errors import InvalidOption
from qwen_captcha.recognition.arithmetic.evaluate import CHARACTERS
from qwen_captcha.recognition.charsets import (
    CHINESE,
    DIGITS,
    Charset,
    letters_and_digits,
    visible,
)
from qwen_captcha.recognition.options import (
    Case,
    Kind,
    Options,
)

# Further outputs for a request with details.
MAX_ALTERNATIVES = 5


@dataclass(frozen=True, slots=True)
class DecodingConstraints:
    """The texts that a response may be, and the number of outputs.

    An engine that cannot restrict its output ignores them; the caller checks the text with
    `allows`.

    Attributes:
        charset: The characters of a response; None allows all. Closed under case where `case` is
            not `keep`.
        min_length: Minimum characters of a response.
        max_length: Maximum characters of a response, None for any number.
        case: With `lower` and `upper`, both cases of a letter are treated as one: their
            probabilities are added, and the response may spell either.
        kind: The kind of the captcha; `charset` is restricted to it already.
        alternatives: Number of further outputs, from 0 to `MAX_ALTERNATIVES`.
    """

    charset: Charset | None = None
    min_length: int = 0
    max_length: int | None = None
    case: Case = Case.KEEP
    kind: Kind = Kind.AUTO
    alternatives: int = 0

    @property
    def restricts(self) -> bool:
        """Whether there are texts that are not allowed."""
        return self.charset is not None or self.min_length > 0 or self.max_length is not None

    def allows(self, text: str) -> bool:
        """Return whether a whole response is allowed."""
        if len(text) < self.min_length or len(text) > (self.max_length or len(text)):
            return False
        return self.charset is None or all(character in self.charset for character in text)


UNRESTRICTED = DecodingConstraints()


def constraints_for(options: Options, *, follows_prompts: bool) -> DecodingConstraints:
    """Return the constraints of one request.

    Charset and length apply to characters that are read, not to an expression to compute.

    Args:
        options: The options of the request.
        follows_prompts: The model may return more than the captcha. `kind=text` restricts a model
            that only transcribes to letters and digits; one that follows prompts needs spaces.

    Raises:
        InvalidOption: No character is left that is allowed by both charset and kind.
    """
    math = options.kind is Kind.MATH
    charset = _charset_of_kind(options.kind, follows_prompts)
    length = None if math else options.length
    if options.charset is not None and not math:
        charset = options.charset if charset is None else options.charset & charset
        if not charset:
            raise InvalidOption(f"charset and kind={options.kind} have no character in common.")
    if length is not None and charset is None:
        charset = visible()
    if charset is not None and options.case is not Case.KEEP:
        charset = charset.in_either_case()
    shortest, longest = length or (0 if charset is None else 1, None)
    return DecodingConstraints(
        charset=charset,
        min_length=shortest,
        max_length=longest,
        case=options.case,
        kind=options.kind,
        alternatives=MAX_ALTERNATIVES if options.details else 0,
    )


def _charset_of_kind(kind: Kind, follows_prompts: bool) -> Charset | None:
    """Return the characters of captchas of a kind, None for any."""
    if kind is Kind.TEXT and not follows_prompts:
        return letters_and_digits()
    if kind is Kind.MATH:
        return Charset.of(CHARACTERS + " ")
    return {Kind.DIGITS: DIGITS, Kind.CHINESE: CHINESE}.get(kind)
