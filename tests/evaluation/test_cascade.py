from __future__ import annotations

import pytest

from evaluation.cascade import curve, picture, table
from tests.support.readings import NOTHING_READ, answered, family_of, scored

FAMILY = family_of("plain", "alnum", "aa", "bb", "cc", "dd")
FIRST = scored(
    FAMILY,
    answered("aa", 0.9),
    answered("xx", 0.3),
    answered("cc", 0.4),
    NOTHING_READ,
    latency_s=0.01,
)
SECOND = scored(
    FAMILY,
    answered("xx", 0.95),
    answered("bb", 0.8),
    answered("xx", 0.2),
    answered("dd", 0.5),
    latency_s=0.1,
)


def test_each_threshold_passes_on_what_is_below_it_and_takes_the_surer_answer() -> None:
    points = {point.below: point for point in curve([FIRST], [SECOND])}
    assert [points[below].passed_on for below in (0.0, 0.1, 0.4, 0.5, 1.0)] == [
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
    ]
    assert [points[below].accuracy for below in (0.0, 0.1, 0.4, 0.5, 1.0)] == [
        0.5,
        0.75,
        1.0,
        1.0,
        0.75,
    ]
    assert points[0.4].seconds == pytest.approx(0.01 + 0.5 * 0.1)


def test_the_table_has_a_line_for_each_and_the_picture_is_svg() -> None:
    points = curve([FIRST], [SECOND])
    assert len(table(points).splitlines()) == len(points) + 1
    assert "</svg>" in picture(points)
