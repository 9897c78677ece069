"""The page on the HTTP API has every route, field and header; examples of pages run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from qwen_captcha.api.openapi.document import HEADERS
from qwen_captcha.api.openapi.operations import OPERATIONS
from qwen_captcha.api.openapi.schemas import SCHEMAS
from qwen_captcha.api.security import KEY_HEADER
from tests.support.live_server import (
    ENTRY_SCRIPT,
    MAX_WAIT_S,
    PROJECT,
    running,
)

PAGE = (PROJECT / "docs" / "api.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
TUTORIAL = (PROJECT / "docs" / "first-ten-minutes.md").read_text(encoding="utf-8")
README = (PROJECT / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"```bash\n([^`]*?curl [^`]*?)```\n\n```json\n(.*?)```", re.DOTALL)
EXAMPLES = [example for page in (PAGE, TUTORIAL, README) for example in EXAMPLE.findall(page)]
URL = "http://127.0.0.1:5000"


def rows(section: str) -> list[str]:
    return [line for line in SECTIONS[section].splitlines() if line.startswith("| ")]


def test_the_routes_are_those_of_the_description() -> None:
    named = re.findall(r"`(GET|POST) (/[^`]*)`", "\n".join(rows("Routes")))
    described = [(operation.method.upper(), operation.path) for operation in OPERATIONS]
    assert sorted(named) == sorted(described)


@pytest.mark.parametrize("schema", ["Answer", "NoAnswer"])
def test_each_field_of_an_answer_has_a_row(schema: str) -> None:
    cells = " ".join(row.split("|")[1] for row in rows("One image"))
    fields = SCHEMAS[schema]["properties"]
    assert isinstance(fields, dict)
    assert [name for name in fields if f"`{name}`" not in cells] == []


@pytest.mark.parametrize("name", [*HEADERS, KEY_HEADER])
def test_each_header_has_a_row(name: str) -> None:
    assert any(f"`{name}`" in row.split("|")[1] for row in rows("Headers"))


@pytest.mark.parametrize("page", [PAGE, TUTORIAL], ids=["api", "first-ten-minutes"])
def test_each_page_that_is_linked_exists(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)", page)
    assert links
    assert [link for link in links if not (PROJECT / "docs" / link).exists()] == []


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(ENTRY_SCRIPT, QWEN_MODEL="bundled", USE_GPU="false") as server:
        server.wait_until_ready()
        yield f"http://127.0.0.1:{server.port}"


def shown(value: Any, name: str = "") -> Any:
    """Return a value without what the next checkpoint or another processor changes.

    Of the other readings only whether there are any is compared.
    """
    if isinstance(value, dict):
        return {key: shown(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return bool(value) if name == "alternatives" else [shown(inner) for inner in value]
    return float if isinstance(value, float) else value


@pytest.mark.live
@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize(("command", "reply"), EXAMPLES)
def test_an_example_answers_what_its_page_shows(url: str, command: str, reply: str) -> None:
    run = subprocess.run(
        ["sh", "-ec", command.replace(URL, url)],
        cwd=PROJECT, capture_output=True, text=True, check=True, timeout=MAX_WAIT_S,
    )  # fmt: skip
    replies = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(replies) == command.count("curl ")
    expected = [shown(json.loads(reply))] * len(replies)
    assert [shown(answer) for answer in replies] == expected
