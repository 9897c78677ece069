"""The page on settings shows the real error line and each relation between settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qwen_captcha.settings import SettingsError, load_settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "configuration.md").read_text(encoding="utf-8")
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


def test_the_line_of_an_invalid_setting_is_the_real_one() -> None:
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
