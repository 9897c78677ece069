"""Print the properties that a script checked, and exit.

The exit status is 0 only if every property holds.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NoReturn

# Property -> its figure, and whether it holds.
Checks = Mapping[str, tuple[str, bool]]


def conclude(checks: Checks) -> NoReturn:
    """Print each property with its figure, and end the program."""
    for name, (figure, holds) in checks.items():
        print(f"{'holds' if holds else 'FAILS'}  {name}: {figure}")
    sys.exit(0 if all(holds for _, holds in checks.values()) else 1)
