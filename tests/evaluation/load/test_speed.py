from __future__ import annotations

import pytest

from evaluation.load.speed import (
    Spread,
    agreement,
    measure_rounds,
    render_ways,
)


class FakeClock:
    """Time that only moves when a way works."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rounds_alternate_their_order_and_take_ratios_within_a_round() -> None:
    clock = FakeClock()
    seconds = {"old": iter([4.0, 8.0, 4.0]), "new": iter([1.0, 4.0, 2.0])}
    order: list[str] = []

    def working(name: str) -> object:
        def work() -> None:
            order.append(name)
            clock.now += next(seconds[name])

        return work

    old, new = measure_rounds(
        {"old": working("old"), "new": working("new")}, images=8, rounds=3, clock=clock
    )
    assert order == ["old", "new", "new", "old", "old", "new"]
    assert old.rounds == (2.0, 1.0, 2.0)
    assert old.times_baseline == Spread(1.0, 1.0, 1.0)
    assert new.rounds == (8.0, 2.0, 4.0)
    assert new.images_per_s == Spread(4.0, 2.0, 8.0)
    # The ratio of the medians would be 2 as well; of each round it is 4, 2 and 2.
    assert new.times_baseline == Spread(2.0, 2.0, 4.0)


@pytest.mark.parametrize(
    ("values", "spread"),
    [
        pytest.param([3.0], Spread(3.0, 3.0, 3.0), id="one"),
        pytest.param([4.0, 1.0], Spread(2.5, 1.0, 4.0), id="even"),
        pytest.param([9.0, 1.0, 2.0], Spread(2.0, 1.0, 9.0), id="odd"),
    ],
)
def test_spread(values: list[float], spread: Spread) -> None:
    assert Spread.of(values) == spread


@pytest.mark.parametrize(
    ("texts", "share"),
    [(["a", "b"], 1.0), (["a", "x"], 0.5), ([None, None], 0.0)],
    ids=["same", "half", "none"],
)
def test_agreement(texts: list[str | None], share: float) -> None:
    assert agreement(texts, ["a", "b"]) == share


def test_agreement_rejects_lists_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="zip"):
        agreement(["a"], ["a", "b"])


def test_the_table_as_a_terminal_shows_it() -> None:
    clock = FakeClock()

    def working(seconds: float) -> object:
        def work() -> None:
            clock.now += seconds

        return work

    ways = measure_rounds(
        {"plain generate": working(2.0), "/batch-ocr, 32 images": working(0.5)}, 64, 2, clock
    )
    assert render_ways(ways) == (
        """\
                       images/s  lowest – highest  times  lowest – highest
──────────────────────────────────────────────────────────────────────────
plain generate             32.0       32.0 – 32.0   1.00       1.00 – 1.00
/batch-ocr, 32 images     128.0     128.0 – 128.0   4.00       4.00 – 4.00"""
    )
