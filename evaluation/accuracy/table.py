"""A summary as a table in plain text, for a terminal and for the README.

It has aligned columns, no control codes and no trailing spaces.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.accuracy.comparison import (
    Competitor,
    PairedComparison,
    comparisons_of_family,
    comparisons_of_group,
)
from evaluation.accuracy.coverage import Point
from evaluation.accuracy.summary import (
    FamilyScore,
    Figures,
    GroupScore,
    Summary,
)

ABSENT = "–"
RULE = "─"
COLUMNS = ("n", "right", "95% interval", "exact", "caseless", "CER", "ECE", "AUROC", "ms", "none")
CASE_MARK = " *"
CASE_NOTE = "* case counts; elsewhere upper and lower case are one"


def render(summary: Summary, competitors: Sequence[Competitor] = ()) -> str:
    """Return the table of families by kind, with means, confidence and notes."""
    rows: list[list[str] | None] = [["", *COLUMNS, *_competitor_header(summary, competitors)], None]
    for kind in summary.kinds:
        rows.append([kind.name])
        rows += [
            _row(
                _family_label(family),
                family.figures,
                comparisons_of_family(family.name, competitors),
            )
            for family in summary.families
            if family.kind == kind.name
        ]
        rows += [_group_row("  mean", kind, competitors), None]
    rows += [_group_row(group.name, group, competitors) for group in summary.groups]
    return "\n".join([*aligned(rows), "", *_confidence_lines(summary), *_notes(summary)])


def aligned(rows: Sequence[Sequence[str] | None]) -> list[str]:
    """Return one line for each row: the first column left-aligned, the others right-aligned.

    Args:
        rows: Cells; a row may be short, and None is a rule across the whole table.
    """
    columns = max(len(row) for row in rows if row is not None)
    widths = [
        max(len(row[column]) for row in rows if row is not None and column < len(row))
        for column in range(columns)
    ]
    total = sum(widths) + 2 * (columns - 1)
    return [RULE * total if row is None else _line(row, widths) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)]
    return "  ".join(cells).rstrip()


def _family_label(family: FamilyScore) -> str:
    return f"  {family.name}{CASE_MARK if family.case_sensitive else ''}"


def _competitor_header(summary: Summary, competitors: Sequence[Competitor]) -> list[str]:
    if competitors:
        return [cell for competitor in competitors for cell in (competitor.name, "p")]
    return ["ddddocr, known", "diff"] if has_baseline(summary) else []


def has_baseline(summary: Summary) -> bool:
    """Return whether ddddocr's accuracy is known beforehand for any family."""
    return any(family.figures.baseline is not None for family in summary.families)


def _group_row(label: str, group: GroupScore, competitors: Sequence[Competitor]) -> list[str]:
    label = f"{label} ({group.families})"
    return _row(label, group.figures, comparisons_of_group(group.name, competitors))


def _row(
    label: str, figures: Figures, comparisons: Sequence[tuple[Figures, PairedComparison]]
) -> list[str]:
    """Return one line's cells; the last are each competitor's accuracy and p-value."""
    cells = [label, *_figure_cells(figures)]
    for theirs, comparison in comparisons:
        cells += [share(theirs.accuracy), p_value(comparison)]
    if not comparisons and figures.baseline is not None:
        cells += [share(figures.baseline), f"{figures.accuracy - figures.baseline:+.3f}"]
    return cells


def _figure_cells(figures: Figures) -> list[str]:
    low, high = figures.interval
    return [
        str(figures.images),
        share(figures.accuracy),
        f"{share(low)} – {share(high)}",
        share(figures.exact),
        share(figures.caseless),
        share(figures.cer),
        share(figures.ece),
        share(figures.auroc),
        milliseconds(figures.median_latency_s),
        str(figures.unanswered or ABSENT),
    ]


def share(value: float | None) -> str:
    """Return a value of [0, 1] with three decimals, or a dash where it is unknown."""
    return ABSENT if value is None else f"{value:.3f}"


def milliseconds(seconds: float) -> str:
    """Return a time in milliseconds with one decimal."""
    return f"{seconds * 1000:.1f}"


def p_value(comparison: PairedComparison) -> str:
    """Return a p-value with three decimals, `<.001` for a smaller one."""
    return "<.001" if comparison.p_value < 0.001 else f"{comparison.p_value:.3f}"


def _confidence_lines(summary: Summary) -> list[str]:
    """Return the table of accepted answers by confidence, for all families together."""
    figures = summary.overall.figures
    rows: list[list[str] | None] = [["min_confidence", "answered", "right of them", "read"], None]
    rows += [_threshold_row(point) for point in summary.overall.thresholds]
    return [
        *aligned(rows),
        "",
        f"answered at 99% accuracy {share(figures.answered_at_99)}, "
        f"at 95% {share(figures.answered_at_95)}",
    ]


def _threshold_row(point: Point) -> list[str]:
    cells = [share(point.answered), share(point.accuracy), share(point.read)]
    return [f"{point.threshold:.2f}", *cells]


def _notes(summary: Summary) -> list[str]:
    lines = []
    if summary.errors:
        counts = ", ".join(f"{count} {reason}" for reason, count in summary.errors.items())
        lines.append(f"no answer: {counts}")
    if any(family.case_sensitive for family in summary.families):
        lines.append(CASE_NOTE)
    return lines
