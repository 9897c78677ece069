"""The migration page names the routes that there are, and its examples run."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from flask import Flask

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "migration.md").read_text(encoding="utf-8")
ROUTES = re.findall(r"`(GET|POST) (/[\w/-]+)`", PAGE)


@pytest.mark.parametrize(("method", "path"), sorted(set(ROUTES)))
def test_each_route_that_is_named_exists(app: Flask, method: str, path: str) -> None:
    rule, _ = app.url_map.bind("localhost").match(path, method)
    assert rule.endswith("other_tasks") is path.startswith(("/det", "/slide"))


def test_each_dialect_route_is_named() -> None:
    assert {path for _, path in ROUTES} >= {
        "/ping", "/ocr", "/ocr/file", "/ocr/file/text", "/ocr/file/json",
        "/ocr/b64", "/ocr/b64/text", "/ocr/b64/json", "/set_charset_range",
    }  # fmt: skip


def test_the_shown_probabilities_are_those_of_the_page() -> None:
    [shown] = re.findall(r"```json\n(\{.*?\})\n```", PAGE, re.DOTALL)
    result = json.loads(shown)
    rows = result["probability"]
    assert "".join(result["charsets"][row.index(max(row))] for row in rows) == result["text"]
    product = math.prod(max(row) for row in rows)
    assert product == pytest.approx(result["confidence"], abs=1e-3)
