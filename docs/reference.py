"""Write the tables of settings, options, errors and metrics into the pages of the documentation.

    python -m docs.reference

A table stands between `<!-- reference: NAME ARGUMENTS -->` and `<!-- end of reference -->`. Its
texts come from the code. Those of the Chinese pages are translated by `reference.zh-CN.json`, from
each English text to the Chinese one; a text without a translation is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen_captcha.api.openapi.option_fields import OPTION_FIELDS
from qwen_captcha.errors import CaptchaServiceError, every_error_type
from qwen_captcha.metrics import Metrics
from qwen_captcha.settings import PASSED_THROUGH, VARIABLES

DOCS = Path(__file__).parent
PAGES = (
    DOCS.parent / "README.md",
    DOCS.parent / "README.zh-CN.md",
    DOCS / "configuration.md",
    DOCS / "configuration.zh-CN.md",
    DOCS / "api.md",
    DOCS / "api.zh-CN.md",
    DOCS / "metrics.md",
)
BLOCK = re.compile(
    r"(?<=^<!-- reference: )(\w+) ?([\w ]*?)( -->\n)(.*?)(?=^<!-- end of reference -->$)",
    re.MULTILINE | re.DOTALL,
)

Translate = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting as the tables show it; each text is in English."""

    names: tuple[str, ...]
    default: str
    allowed: str
    help: str


SETTINGS: Sequence[SettingRow] = (
    *(
        SettingRow(
            variable.names,
            f"`{variable.default}`" if variable.default else "",
            variable.allowed,
            variable.help,
        )
        for variable in VARIABLES
    ),
    *(
        SettingRow((name,), "Hugging Face's own", allowed, help_text)
        for name, (allowed, help_text) in PASSED_THROUGH.items()
    ),
)


class Chinese:
    """A translation of texts; `used` collects what was looked up."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts
        self.used: set[str] = set()

    def __call__(self, text: str) -> str:
        """Return the Chinese text.

        Raises:
            KeyError: There is none.
        """
        if not text or re.fullmatch("`[^`]+`(, `[^`]+`)*", text):
            return text
        if numbers := re.fullmatch(r"a whole number from (\S+) to (\S+)", text):
            return f"{numbers[1]} 到 {numbers[2]} 的整数"
        if numbers := re.fullmatch(r"a number from (\S+) to (\S+)", text):
            return f"{numbers[1]} 到 {numbers[2]} 的数"
        if words := re.fullmatch(r"one of (\w+(?:, \w+)+)", text):
            return words[1].replace(", ", "、") + " 之一"
        self.used.add(text)
        return self.texts[text]


def read_chinese() -> Chinese:
    """Return the translation that stands beside this module."""
    return Chinese(json.loads((DOCS / "reference.zh-CN.json").read_text(encoding="utf-8")))


def settings_table(names: Sequence[str], translate: Translate) -> str:
    """Return the table of the settings between each pair of names, both included."""
    positions = {row.names[0]: position for position, row in enumerate(SETTINGS)}
    rows = []
    for first, last in zip(names[::2], names[1::2], strict=True):
        for row in SETTINGS[positions[first] : positions[last] + 1]:
            rows.append([_code(row.names), row.default, row.allowed, row.help])
    return _table(["variable", "default", "allowed", "meaning"], rows, translate)


def summary_table(names: Sequence[str], translate: Translate) -> str:
    """Return a short table of some settings."""
    rows = [[_code(row.names), row.default, row.help] for row in SETTINGS if row.names[0] in names]
    return _table(["variable", "default", "meaning"], rows, translate)


def options_table(_: Sequence[str], translate: Translate) -> str:
    """Return the table of the options of a request."""
    rows = [[f"`{option.name}`", option.values, option.help] for option in OPTION_FIELDS]
    return _table(["option", "value", "effect"], rows, translate)


def errors_table(_: Sequence[str], translate: Translate) -> str:
    """Return the table of the errors by status."""
    errors = [error for error in every_error_type() if error is not CaptchaServiceError]
    rows = [
        [str(error.status), f"`{error.error_type}`", error.__doc__ or ""]
        for error in sorted(errors, key=lambda error: error.status)
    ]
    return _table(["status", "`error_type`", "when"], rows, translate)


def metrics_table(_: Sequence[str], translate: Translate) -> str:
    """Return the table of the metrics."""
    rows = [
        [f"`{metric.name}`", metric.type, _code(metric.labels), metric.help]
        for metric in Metrics().descriptions
    ]
    return _table(["metric", "type", "labels", "meaning"], rows, translate)


TABLES: Mapping[str, Callable[[Sequence[str], Translate], str]] = {
    "settings": settings_table,
    "summary": summary_table,
    "options": options_table,
    "errors": errors_table,
    "metrics": metrics_table,
}


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], translate: Translate) -> str:
    """Return a Markdown table; texts that are no names are translated."""
    lines = [_row([translate(cell) for cell in head]), "|---" * len(head) + "|"]
    for row in rows:
        lines.append(_row([cell if cell.isdecimal() else translate(cell) for cell in row]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def with_tables(page: str, translate: Translate) -> str:
    """Return a page with each of its tables made anew."""

    def block(match: re.Match[str]) -> str:
        name, arguments, end, _ = match.groups()
        head = f"{name} {arguments}".rstrip()
        return f"{head}{end}{TABLES[name](arguments.split(), translate)}"

    return BLOCK.sub(block, page)


def translation_of(page: Path, chinese: Chinese) -> Translate:
    """Return the translation into the language of a page."""
    return chinese if page.name.endswith(".zh-CN.md") else str


def main() -> None:
    """Write each page whose tables are not current."""
    chinese = read_chinese()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        current = with_tables(text, translation_of(page, chinese))
        if current != text:
            page.write_text(current, encoding="utf-8")
            print(page.relative_to(DOCS.parent))


if __name__ == "__main__":
    main()
