"""Order of the readings and figures of a row; OpenVINO itself is not installed."""

from __future__ import annotations

from collections.abc import Callable

from evaluation import openvino
from evaluation.openvino import Cost
from evaluation.published.shape import TOKENS
from qwen_captcha.backends.hardware import GIB


def test_the_engines_read_by_turns_and_the_first_round_is_left_out() -> None:
    asked: list[tuple[str, int]] = []

    def engine(name: str) -> Callable[[int], Cost]:
        def read(tokens: int) -> Cost:
            asked.append((name, tokens))
            return Cost(wall_s=len(asked), processor_s=tokens, peak_bytes=0)

        return read

    costs = openvino.by_turns([engine("a"), engine("b")], rounds=2)
    assert asked == 2 * [("a", 1), ("b", 1), ("a", TOKENS), ("b", TOKENS)]
    assert costs == [
        {1: [Cost(5, 1, 0)], TOKENS: [Cost(7, TOKENS, 0)]},
        {1: [Cost(6, 1, 0)], TOKENS: [Cost(8, TOKENS, 0)]},
    ]


def test_a_row_has_medians_and_the_largest_peak() -> None:
    captchas = [Cost(9, 4, GIB), Cost(5, 3, 2 * GIB), Cost(6, 2, GIB)]
    row = openvino.row({1: [Cost(3, 1, GIB)], TOKENS: captchas}, disk_bytes=GIB // 2)
    assert row == "1.00 | 3.00 | 6.00 | 2.00 | 0.50"
