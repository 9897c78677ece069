"""The generated tables of the documentation are current."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.reference import BLOCK, PAGES, SETTINGS, read_chinese, translation_of, with_tables


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert BLOCK.search(text)
    current = with_tables(text, translation_of(page, read_chinese()))
    assert current == text, "run: make reference"


@pytest.mark.parametrize("page", PAGES[2:4], ids=lambda page: page.name)
def test_each_setting_is_in_one_table_of_its_page(page: Path) -> None:
    rows = page.read_text(encoding="utf-8").partition("`RATE_LIMIT_PER_KEY` | with")[0]
    for setting in SETTINGS:
        assert rows.count(f"\n| `{setting.names[0]}`") >= 1


def test_no_translation_is_unused() -> None:
    chinese = read_chinese()
    for page in PAGES:
        with_tables(page.read_text(encoding="utf-8"), translation_of(page, chinese))
    assert chinese.used == set(chinese.texts)
