"""What a script found out, property by property, and the exit status that follows.

Responsible for: printing verdicts in one form. Invariant: the status is 0 only where every property
holds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NoReturn

# Property -> its figure, and whether it holds.
Verdicts = Mapping[str, tuple[str, bool]]


def conclude(verdicts: Verdicts) -> NoReturn:
    """Print each property with its figure, and end the program."""
    for name, (figure, holds) in verdicts.items():
        print(f"{'holds' if holds else 'FAILS'}  {name}: {figure}")
    sys.exit(0 if all(holds for _, holds in verdicts.values()) else 1)
