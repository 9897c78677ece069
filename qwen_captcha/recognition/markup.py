"""Removal of full-width forms, Markdown, LaTeX and quotes from model replies.

Letters, digits and Chinese characters outside of LaTeX commands remain. Every function is linear
in its input.
"""

from __future__ import annotations

import re

# Full-width ASCII; ideographic and no-break space; zero-width characters; typographic apostrophes
# and quotes.
_FORMS: dict[int, int | str] = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    0x3000: " ",
    0x00A0: " ",
    **dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF], ""),
    **dict.fromkeys(map(ord, "‘’"), "'"),
    **dict.fromkeys(map(ord, "“”„〝〞"), '"'),
}

# Closing quotes by opening quote.
_QUOTES = {
    '"': '"',
    "'": "'",
    "`": "`",
    "“": "”",
    "”": "”",
    "„": "“”",
    "‘": "’",
    "「": "」",
    "『": "』",
    "〝": "〞",
    "«": "»",
    "‹": "›",
}
# Emphasis, formulas and Chinese brackets, which only our own prompts' answers are stripped of.
_MARKS = {**_QUOTES, "*": "*", "_": "_", "$": "$", "【": "】"}

_FENCE = re.compile(
    r"^[ \t]*```+(?:text|txt|plaintext|plain|markdown|md|latex|math|python|json|html)?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
_BOLD_WORD = re.compile(r"(\*\*|__)([^\s*_]*[^\s*_:])\1")
# `3**2` is no bold. Underscores are a blank in `3+__=8`, and a mark only in a pair about words.
_BOLD_MARK = re.compile(r"(?<![0-9])\*\*|\*\*(?![0-9])|(?<!\w)__(?=[^\W_])((?:(?!__).)*+)__(?!\w)")
# A dash before a bare number is its sign, not a bullet.
_LINE_MARKS = re.compile(r"(?:(?:#{1,6}|>|[*•])\s+|-\s+(?!\d+\W*$))*+")

_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]*)\}\{([^{}]*)\}")
_LATEX_TOKEN = re.compile(r"\\([A-Za-z]+)|\\(.)|[{}]", re.DOTALL)
_LATEX_SIGNS = {"times": "×", "cdot": "×", "ast": "×", "div": "÷"}


def fold_forms(text: str) -> str:
    """Return a text with full-width letters, digits and punctuation in their ASCII forms.

    Chinese characters and Chinese punctuation without an ASCII twin, such as `。`, stay.
    """
    return text.translate(_FORMS)


def plain_lines(text: str) -> list[str]:
    """Return the lines of a folded reply that are not blank, without Markdown and LaTeX.

    A word in bold comes back in double quotes, because models stress their answer so.
    """
    text = _BOLD_WORD.sub(r'"\2"', _plain_formula(_FENCE.sub("", text)))
    text = _BOLD_MARK.sub(r"\1", text)
    lines = (_LINE_MARKS.sub("", line.strip(), count=1) for line in text.splitlines())
    return [line for line in lines if line.strip()]


def unquote(text: str, *, marks: bool = False) -> str:
    """Return a text without its outer pair of quotes, where the two belong together.

    Args:
        text: Any text, trimmed.
        marks: Also remove a pair of Markdown's `*` and `_`, LaTeX's `$`, or `【】`.
    """
    closing = (_MARKS if marks else _QUOTES).get(text[:1], "")
    inner = text[1:-1]
    if len(text) < 2 or text[-1] not in closing or text[0] in inner or text[-1] in inner:
        return text
    return inner.strip()


def _plain_formula(text: str) -> str:
    """Return a text with LaTeX commands replaced by the characters that they show."""
    if "\\" not in text:
        return text
    return _LATEX_TOKEN.sub(_shown, _LATEX_FRACTION.sub(r"(\1)/(\2)", text))


def _shown(token: re.Match[str]) -> str:
    r"""Return the text of a LaTeX token: a sign, an escaped character such as `\_`, or nothing."""
    command, escaped = token[1], token[2]
    if command:
        return _LATEX_SIGNS.get(command, "")
    return escaped if escaped and escaped not in "()[],;:! " else ""
