"""The README names every setting, error and make target, as the code has them."""

import re
from pathlib import Path

import pytest

from qwen_captcha.errors import CaptchaServiceError, every_error_type
from qwen_captcha.settings import PASSED_THROUGH, VARIABLES, Variable

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
ROWS = [line for line in README.splitlines() if line.startswith("|")]


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.names[0])
def test_each_setting_has_a_row_with_its_default_and_meaning(variable: Variable) -> None:
    [row] = [row for row in ROWS if f"`{variable.names[0]}`" in row.split("|")[1]]
    assert all(f"`{name}`" in row for name in variable.names)
    assert row.split("|")[2].strip().strip("`") == variable.default
    assert variable.help in row
    assert variable.allowed in row


@pytest.mark.parametrize("name", PASSED_THROUGH)
def test_each_passed_through_variable_has_a_row(name: str) -> None:
    assert any(f"`{name}`" in row.split("|")[1] for row in ROWS)


@pytest.mark.parametrize(
    "error",
    [error for error in every_error_type() if error is not CaptchaServiceError],
    ids=lambda error: error.__name__,
)
def test_each_error_has_a_row_with_its_status(error: type[CaptchaServiceError]) -> None:
    assert any(f"| {error.status} | `{error.error_type}` |" in row for row in ROWS)


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
