"""The results of one run as data: readings, figures of each reader, and the JSON file.

Table and page show only this data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from evaluation.accuracy.comparison import Competitor
from evaluation.accuracy.lengths import by_length
from evaluation.accuracy.predictions import ScoredFamilies, all_predictions
from evaluation.accuracy.summary import Summary


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of the readings of a run.

    Attributes:
        folder: The labelled folder.
        model: The model that the service or this process had loaded.
        url: The service, or None where the model ran in this process.
        options: Request options of every image.
        workers: Images that were read at the same time.
        created: Time of the run, as ISO 8601.
        commit: This project's commit, `+` after it where files differ; None where unknown.
    """

    folder: str
    model: str
    url: str | None
    options: Mapping[str, str]
    workers: int
    created: str
    commit: str | None


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    Attributes:
        source: The origin of the readings.
        scored: Our predictions.
        summary: Our figures.
        warnings: Sentences of the replies, and how many replies had each.
        competitors: Other readers of the same images.
    """

    source: Source
    scored: ScoredFamilies
    summary: Summary
    warnings: Mapping[str, int]
    competitors: Sequence[Competitor] = ()


def count_warnings(scored: ScoredFamilies) -> dict[str, int]:
    """Return the count of each warning, the most frequent first."""
    counts = Counter(w for _, predictions in scored for p in predictions for w in p.warnings)
    return dict(counts.most_common())


def as_json(report: Report) -> dict[str, object]:
    """Return the content of the JSON file."""
    return {
        **asdict(report.source),
        **asdict(report.summary),
        "lengths": [asdict(row) for row in by_length(all_predictions(report.scored))],
        "warnings": dict(report.warnings),
        "predictions": _prediction_rows(report.scored),
        "competitors": [
            {
                "name": competitor.name,
                **asdict(competitor.summary),
                "comparison": {
                    "families": [asdict(comparison) for comparison in competitor.families.values()],
                    "groups": [asdict(comparison) for comparison in competitor.groups.values()],
                },
                "predictions": _prediction_rows(competitor.scored),
            }
            for competitor in report.competitors
        ],
    }


def _prediction_rows(scored: ScoredFamilies) -> list[dict[str, object]]:
    return [
        {"family": family.name, **asdict(prediction)}
        for family, predictions in scored
        for prediction in predictions
    ]
