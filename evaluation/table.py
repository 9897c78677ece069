"""A summary as text: the table that a terminal shows and a README quotes.

Responsible for: columns, rounding and rules. Leaves every figure to `summary.py`.
Invariant: plain text in aligned columns, no control codes, no trailing spaces, the same on a
terminal and in a file.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.summary import FamilyScore, GroupScore, Summary

ABSENT = "–"
RULE = "─"
COLUMNS = ("n", "exact", "95% interval", "ddddocr", "diff", "conf", "none")
CASE_MARK = " *"
CASE_NOTE = "* case counts; elsewhere upper and lower case are one"


def render(summary: Summary) -> str:
    """Return the table: families by kind with each kind's mean, overall means, closing figures."""
    rows: list[list[str] | None] = [["", *COLUMNS], None]
    for kind in summary.kinds:
        families = [family for family in summary.families if family.kind == kind.name]
        rows += [[kind.name]] + [_family_row(family) for family in families]
        rows += [_group_row("  mean", kind), None]
    rows += [_group_row(group.name, group) for group in summary.groups]
    return "\n".join([*aligned(rows), "", *_closing_lines(summary)])


def aligned(rows: Sequence[Sequence[str] | None]) -> list[str]:
    """Return one line a row: the first column to the left, the others to the right.

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


def _family_row(family: FamilyScore) -> list[str]:
    low, high = family.interval
    return [
        f"  {family.name}{CASE_MARK if family.case_sensitive else ''}",
        str(family.images),
        share(family.accuracy),
        f"{share(low)} – {share(high)}",
        share(family.baseline),
        _difference(family.accuracy, family.baseline),
        share(family.confidence),
        str(family.unanswered or ABSENT),
    ]


def _group_row(name: str, group: GroupScore) -> list[str]:
    return [
        f"{name} ({group.families})",
        str(group.images),
        share(group.accuracy),
        "",
        share(group.baseline),
        _difference(group.accuracy, group.baseline),
        share(group.confidence),
        str(group.unanswered or ABSENT),
    ]


def share(value: float | None) -> str:
    """Return a value of [0, 1] with three decimals, or a dash where it is unknown."""
    return ABSENT if value is None else f"{value:.3f}"


def _difference(accuracy: float, baseline: float | None) -> str:
    return ABSENT if baseline is None else f"{accuracy - baseline:+.3f}"


def _closing_lines(summary: Summary) -> list[str]:
    lines = [
        f"ECE {share(summary.ece)}   AUROC {share(summary.auroc)}   CER {share(summary.cer)}   "
        f"median latency {summary.median_latency_s * 1000:.1f} ms"
    ]
    if summary.errors:
        counts = ", ".join(f"{count} {reason}" for reason, count in summary.errors.items())
        lines.append(f"no answer: {counts}")
    if any(family.case_sensitive for family in summary.families):
        lines.append(CASE_NOTE)
    return lines
