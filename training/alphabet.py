"""The characters that the bundled checkpoint can read, and the groups they are sampled from.

Responsible for: the fixed character set behind the tokenizer. Leaves how often each is drawn to
`texts.py`. Invariant: `ALPHABET` has no duplicates and its order never changes, since token ids
in landed checkpoints follow it.
"""

from __future__ import annotations

import string

DIGITS = string.digits
LOWER = string.ascii_lowercase
UPPER = string.ascii_uppercase
LATIN = DIGITS + LOWER + UPPER
ASCII_SYMBOLS = string.punctuation + " "
# Signs of arithmetic and punctuation outside ASCII, full-width forms as Chinese sites draw them.
WIDE_SYMBOLS = "×÷−＋－＝？＊／（）：；，。！、·…—"
# Ordinary, traditional and financial numerals that GB 2312 lacks.
EXTRA_NUMERALS = "〇貳叄陸兩億萬點"


def _gb2312_rows(first_row: int, last_row: int) -> str:
    """Return the characters of GB 2312 rows in code order; unassigned cells are left out."""
    characters = []
    for row in range(first_row, last_row + 1):
        for cell in range(1, 95):
            try:
                characters.append(bytes((0xA0 + row, 0xA0 + cell)).decode("gb2312"))
            except UnicodeDecodeError:
                continue
    return "".join(characters)


# GB 2312: rows 16 to 55 are level 1 (3,755 frequent characters), 56 to 87 level 2 (3,008).
HANZI_LEVEL_1 = _gb2312_rows(16, 55)
HANZI_LEVEL_2 = _gb2312_rows(56, 87)

ALPHABET = "".join(
    dict.fromkeys(
        LATIN + ASCII_SYMBOLS + WIDE_SYMBOLS + HANZI_LEVEL_1 + HANZI_LEVEL_2 + EXTRA_NUMERALS
    )
)
