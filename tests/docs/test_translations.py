"""A page in Chinese has the content of the English one: structure, code, tables, numbers, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = ("README", "docs/configuration", "docs/api", "docs/your-own-captchas")
ENGLISH = {page: (PROJECT / f"{page}.md").read_text(encoding="utf-8") for page in PAGES}
CHINESE = {page: (PROJECT / f"{page}.zh-CN.md").read_text(encoding="utf-8") for page in PAGES}
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HAN = re.compile("[\u4e00-\u9fff]")


def sections(text: str) -> list[str]:
    """Return what stands before the first heading below the title, and each section."""
    headless = BLOCK.sub(lambda block: block[0].replace("\n#", "\n\\#"), text)
    return re.split(r"^(?=##)", headless, flags=re.MULTILINE)


def levels(text: str) -> list[str]:
    return [re.match("#+", section)[0] for section in sections(text)]


def rows(text: str) -> list[str]:
    return [line for line in BLOCK.sub("", text).splitlines() if line.startswith("|")]


def numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:\.\d+)?", text))


def code_of(row: str) -> list[str]:
    """Return the code in the first two cells of a table's row, which names what it is about."""
    return re.findall("`[^`]+`", "|".join(row.split("|")[:3]))


def links(text: str) -> list[str]:
    """Return the targets of links, of whichever language they are, but for the other language's."""
    prose = "\n".join(line for line in text.splitlines() if " | " not in line or line[0] == "|")
    found = re.findall(r"\]\(([^)]+)\)", prose)
    return [re.sub(r"#.*", "", link.replace(".zh-CN.md", ".md")) for link in found]


PAIRS = [
    pytest.param(*pair, id=f"{page} {pair[0].splitlines()[0]}")
    for page in PAGES
    for pair in zip(sections(ENGLISH[page]), sections(CHINESE[page]), strict=False)
]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_blocks_are_equal(page: str) -> None:
    blocks = BLOCK.findall(ENGLISH[page])
    assert blocks
    assert BLOCK.findall(CHINESE[page]) == blocks


@pytest.mark.parametrize("page", PAGES)
def test_the_sections_are_of_the_same_levels_in_the_same_order(page: str) -> None:
    assert levels(CHINESE[page]) == levels(ENGLISH[page])


@pytest.mark.parametrize("page", PAGES)
def test_each_links_to_the_other(page: str) -> None:
    name = page.rpartition("/")[2]
    assert f"English | [中文]({name}.zh-CN.md)" in ENGLISH[page]
    assert f"[English]({name}.md) | 中文" in CHINESE[page]


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_a_section_has_the_same_blocks_links_and_chinese_words(english: str, chinese: str) -> None:
    assert len(BLOCK.findall(chinese)) == len(BLOCK.findall(english))
    assert links(chinese) == links(english)
    assert HAN.search(chinese)
    assert not HAN.search(BLOCK.sub("", english).replace("中文", ""))


@pytest.mark.parametrize("page", PAGES)
def test_each_row_of_a_table_is_about_the_same_with_the_same_numbers(page: str) -> None:
    english, chinese = rows(ENGLISH[page]), rows(CHINESE[page])
    assert len(english) > 5
    assert [code_of(row) for row in chinese] == [code_of(row) for row in english]
    assert [numbers(row) for row in chinese] == [numbers(row) for row in english]


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_a_measured_number_is_the_same(english: str, chinese: str) -> None:
    def measured(text: str) -> list[str]:
        return sorted(re.findall(r"\d+\.\d+", BLOCK.sub("", text)))

    assert measured(chinese) == measured(english)
