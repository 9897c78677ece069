"""README.zh-CN.md says the same as README.md: structure, code, tables, numbers, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
ENGLISH = (PROJECT / "README.md").read_text(encoding="utf-8")
CHINESE = (PROJECT / "README.zh-CN.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HAN = re.compile("[\u4e00-\u9fff]")


def sections(text: str) -> list[str]:
    """Return what stands before the first heading below the title, and each section."""
    headless = BLOCK.sub(lambda block: block[0].replace("\n#", "\n\\#"), text)
    return re.split(r"^(?=##)", headless, flags=re.MULTILINE)


def rows(text: str) -> list[str]:
    return [line for line in BLOCK.sub("", text).splitlines() if line.startswith("|")]


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


def code_of(row: str) -> list[str]:
    """Return the code in the first two cells of a table's row, which names what it is about."""
    return re.findall("`[^`]+`", "|".join(row.split("|")[:3]))


PAIRS = list(zip(sections(ENGLISH), sections(CHINESE), strict=False))


def test_the_code_blocks_are_equal() -> None:
    blocks = BLOCK.findall(ENGLISH)
    assert len(blocks) > 10
    assert BLOCK.findall(CHINESE) == blocks


def test_the_sections_are_of_the_same_levels_in_the_same_order() -> None:
    levels = [re.match("#+", section)[0] for section in sections(ENGLISH)]  # type: ignore[index]
    assert [re.match("#+", section)[0] for section in sections(CHINESE)] == levels  # type: ignore[index]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda text: text.split("\n")[0])
def test_a_section_has_the_same_blocks_links_and_chinese_words(english: str, chinese: str) -> None:
    assert len(BLOCK.findall(chinese)) == len(BLOCK.findall(english))
    links = re.findall(r"\]\(([^)]+)\)", english)
    assert [link for link in re.findall(r"\]\(([^)]+)\)", chinese) if link != "README.md"] == [
        link for link in links if link != "README.zh-CN.md"
    ]
    assert HAN.search(chinese)
    assert not HAN.search(BLOCK.sub("", english).replace("中文", ""))


def test_each_row_of_a_table_is_about_the_same_with_the_same_numbers() -> None:
    english, chinese = rows(ENGLISH), rows(CHINESE)
    assert len(english) > 60
    assert [code_of(row) for row in chinese] == [code_of(row) for row in english]
    assert [numbers(row) for row in chinese] == [numbers(row) for row in english]


@pytest.mark.parametrize(("english", "chinese"), PAIRS, ids=lambda text: text.split("\n")[0])
def test_a_measured_number_is_the_same(english: str, chinese: str) -> None:
    def measured(text: str) -> list[str]:
        return sorted(re.findall(r"\d+\.\d+", BLOCK.sub("", text)))

    assert measured(chinese) == measured(english)
