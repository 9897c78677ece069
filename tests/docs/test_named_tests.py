"""Each test that a page of the documentation names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
DOCS = TESTS.parent / "docs"
PAGES = ("security.md", "reliability.md")


@pytest.mark.parametrize("page", PAGES)
def test_each_test_that_is_named_exists(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 10
    missing = [
        f"{module}::{name}"
        for module, name in named
        if f"def {name}(" not in (TESTS / module).read_text(encoding="utf-8")
    ]
    assert missing == []
