"""The README names every setting, and make targets and files as there are."""

import re
from pathlib import Path

import pytest

from qwen_captcha.settings import PASSED_THROUGH, VARIABLES

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
NAMES = [name for variable in VARIABLES for name in variable.names]


@pytest.mark.parametrize("name", [*NAMES, *PASSED_THROUGH])
def test_each_setting_is_named(name: str) -> None:
    assert f"`{name}`" in README


def test_each_setting_in_the_table_is_the_one_of_the_page_on_settings() -> None:
    page = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in README.splitlines() if re.match(r"\| `[A-Z_]+`", line)]
    assert len(rows) >= 8
    for row in rows:
        _, names, default, meaning, _ = row.split("|")
        assert any(line.startswith(f"|{names}|{default}|") and meaning in line for line in page)


def test_each_make_target_that_is_named_exists() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b(?= |`|$)", README))
    assert named >= {"serve", "test", "bench", "train", "fonts"}
    assert named <= targets


def test_each_file_that_is_linked_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (PROJECT / link).exists()] == []
