"""The report of a run as one self-contained HTML page.

The page loads nothing from outside. If the manifest reserves families for the final evaluation, the
page shows their mistakes only on request.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.accuracy.comparison import comparisons_of_family, comparisons_of_group
from evaluation.accuracy.confusion import (
    NOTHING,
    Confusions,
    confusions,
)
from evaluation.accuracy.plots import coverage_diagram, length_diagram, reliability_diagram
from evaluation.accuracy.predictions import Prediction, ScoredFamilies
from evaluation.accuracy.readers.base import content_type_of
from evaluation.accuracy.report import Report
from evaluation.accuracy.summary import figures_of
from evaluation.accuracy.table import (
    has_baseline,
    milliseconds,
    p_value,
    share,
)
from qwen_captcha.samples import Family

TEMPLATE = "report_template.html"
# Maximum pictures, for a small page: captchas have 2 to 10 kB each.
MAX_MISTAKES = 120
MAX_CHARACTERS = 18
MAX_PAIRS = 24


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong answer with its picture as a data URI."""

    picture: str
    family: str
    prediction: Prediction


@dataclass(frozen=True, slots=True)
class ConfusionTable:
    """The characters with the most mistakes.

    Attributes:
        drawn: Row heads, the most mistaken first.
        read: Column heads, `NOTHING` for a lost character.
        counts: One row for each drawn character, one column for each read one.
        pairs: (drawn, read, count, share of the drawn character) of the most frequent mistakes.
    """

    drawn: Sequence[str]
    read: Sequence[str]
    counts: Sequence[Sequence[int]]
    pairs: Sequence[tuple[str, str, int, float | None]]

    @property
    def maximum(self) -> int:
        """The largest count, at least 1."""
        return max((count for row in self.counts for count in row), default=1) or 1


def render_page(report: Report, mistakes_of: str | None = None) -> str:
    """Return the page.

    Args:
        report: The run.
        mistakes_of: `tune`, `all` or `none`; None is `tune` where the manifest marks families,
            else `all`.
    """
    readers = [
        (report.source.model, report.scored),
        *((r.name, r.scored) for r in report.competitors),
    ]
    shown, scope = shown_families(report.scored, mistakes_of)
    mistakes = wrong_answers(shown)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"share": share, "percent": percent, "ms": milliseconds, "p": p_value}
    return environment.get_template(TEMPLATE).render(
        report=report,
        source=report.source,
        summary=report.summary,
        overall=report.summary.overall,
        competitors=report.competitors,
        side_by_side=[(name, figures_of(scored)) for name, scored in readers],
        comparisons_of_family=lambda name: comparisons_of_family(name, report.competitors),
        comparisons_of_group=lambda name: comparisons_of_group(name, report.competitors),
        reliability=picture_uri("image/svg+xml", reliability_diagram(readers).encode()),
        coverage=picture_uri("image/svg+xml", coverage_diagram(readers).encode()),
        lengths=picture_uri("image/svg+xml", length_diagram(readers).encode()),
        confusion=confusion_table(confusions(shown)),
        mistakes=[_mistake(*wrong) for wrong in mistakes[:MAX_MISTAKES]],
        all_mistakes=len(mistakes),
        scope=scope,
        known=has_baseline(report.summary),
    )


def shown_families(scored: ScoredFamilies, mistakes_of: str | None) -> tuple[ScoredFamilies, str]:
    """Return the families whose mistakes are shown, and the scope: `tune`, `all` or `none`."""
    marked = any(family.tune is not None for family, _ in scored)
    scope = mistakes_of or ("tune" if marked else "all")
    if scope == "none":
        return [], scope
    return [item for item in scored if scope == "all" or item[0].tune], scope


def wrong_answers(scored: ScoredFamilies) -> list[tuple[Family, int, Prediction]]:
    """Return (family, index in it, prediction) of all mistakes, the highest confidence first."""
    wrong = [
        (family, index, prediction)
        for family, predictions in scored
        for index, prediction in enumerate(predictions)
        if not prediction.correct
    ]
    return sorted(wrong, key=lambda item: -item[2].confidence)


def _mistake(family: Family, index: int, prediction: Prediction) -> Mistake:
    path = family.samples[index].path
    picture = picture_uri(content_type_of(path), path.read_bytes())
    return Mistake(picture, family.name, prediction)


def confusion_table(counted: Confusions) -> ConfusionTable:
    """Return the most mistaken characters as a table, and the most frequent mistakes as a list."""
    by_drawn: dict[str, int] = {}
    for (drawn, _), count in counted.mistakes.items():
        by_drawn[drawn] = by_drawn.get(drawn, 0) + count
    by_drawn.pop(NOTHING, None)
    rows = sorted(by_drawn, key=lambda c: (-by_drawn[c], c))[:MAX_CHARACTERS]
    by_read: dict[str, int] = {}
    for (drawn, read), count in counted.mistakes.items():
        if drawn in rows:
            by_read[read] = by_read.get(read, 0) + count
    columns = sorted(by_read, key=lambda c: (-by_read[c], c))[:MAX_CHARACTERS]
    pairs = sorted(counted.mistakes.items(), key=lambda item: (-item[1], item[0]))[:MAX_PAIRS]
    return ConfusionTable(
        drawn=rows,
        read=columns,
        counts=[[counted.mistakes[drawn, read] for read in columns] for drawn in rows],
        pairs=[
            (drawn, read, count, count / counted.drawn[drawn] if drawn else None)
            for (drawn, read), count in pairs
        ],
    )


def picture_uri(content_type: str, data: bytes) -> str:
    """Return a picture as a data URI."""
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


def percent(value: float | None) -> str:
    """Return a share in percent, or a dash where it is unknown."""
    return "–" if value is None else f"{value:.1%}"
