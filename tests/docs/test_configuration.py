"""The page on settings has each of them, with its default, what is allowed, and its meaning."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwen_captcha.settings import (
    PASSED_THROUGH,
    VARIABLES,
    SettingsError,
    Variable,
    load_settings,
)

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "configuration.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## What must fit together")[0].splitlines()
    if line.startswith("| `")
]
# The setting that breaks a relation, and what it breaks it with.
BROKEN = (
    {"MIN_PIXELS": "400000"},
    {"MAX_BATCH_IMAGES": "200"},
    {"MAX_IMAGE_BYTES": "100000000"},
    {"HTTP_THREADS": "100"},
    {"QWEN_BACKEND": "openai"},
    {"QWEN_CASCADE": "openai"},
    {"RATE_LIMIT_PER_KEY": "1/second"},
)


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.names[0])
def test_each_setting_has_a_row(variable: Variable) -> None:
    names = ", ".join(f"`{name}`" for name in variable.names)
    [(_, default, allowed, meaning)] = [row for row in ROWS if row[0] == names]
    assert default.strip("`") == variable.default
    assert (allowed, meaning) == (variable.allowed, variable.help)


@pytest.mark.parametrize("name", PASSED_THROUGH)
def test_each_passed_through_variable_has_a_row(name: str) -> None:
    assert [row[-1] for row in ROWS if row[0] == f"`{name}`"] == [PASSED_THROUGH[name]]


def test_there_is_no_row_of_anything_else() -> None:
    assert len(ROWS) == len(VARIABLES) + len(PASSED_THROUGH)


def test_the_line_of_a_refused_value_is_the_real_one() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"MIN_PIXELS": "abc"})
    assert f"\n{refused.value}\n" in PAGE


@pytest.mark.parametrize("variables", BROKEN, ids=lambda variables: next(iter(variables)))
def test_each_relation_has_a_row(variables: dict[str, str]) -> None:
    [(name, value)] = variables.items()
    with pytest.raises(SettingsError, match=re.escape(name)) as refused:
        load_settings(variables)
    [row] = re.findall(rf"^\| `{name}(?:={value})?` \| .*$", PAGE, re.MULTILINE)[-1:]
    _, _, must, why, _ = row.split("|")
    [other] = re.findall("`([A-Z_]+)`", must)
    assert other in str(refused.value)
    if must.split()[0] in ("at", "more"):
        assert f"{must.split('`')[0].strip()} {other}=" in str(refused.value)
        assert str(refused.value).endswith(f"because {why.strip()}.")
