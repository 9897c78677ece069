"""Expressions: the grammar, exact values, and one unknown."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_captcha.recognition.arithmetic.expressions import (
    DIVIDES,
    NoValueError,
    Operation,
    compute,
    parse,
    solve,
)


def tokens_of(text: str) -> list[Fraction | str]:
    """Split a text with spaces between its tokens."""
    return [Fraction(word) if word.isdigit() else word for word in text.split()]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("3 + 5", 8),
        ("3 - 5", -2),
        ("7 - 4 - 2", 1),
        ("2 + 3 * 4", 14),
        ("2 * 3 + 4", 10),
        ("8 - 6 / 2", 5),
        ("6 / 4 * 2", 3),
        ("24 / 4 / 2", 3),
        ("7 / 2", Fraction(7, 2)),
        (f"3 {DIVIDES} 6", 2),
        (f"2 * 3 {DIVIDES} 12", 2),
        ("( 2 + 3 ) * 4", 20),
        ("2 * ( 3 + ( 4 - 1 ) )", 12),
        ("- 3 + 5", 2),
        ("3 * - 5", -15),
        ("3 - - 5", 8),
        ("- ( 3 + 5 )", -8),
        ("- - 3", 3),
    ],
)
def test_value(text: str, value: Fraction):
    assert compute(parse(tokens_of(text))) == value


def test_question_mark_after_an_expression_is_punctuation():
    assert compute(parse(tokens_of("3 + 5 ?"))) == 8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "3 +",
        "+ 3",
        "3 5",
        "3 + + 5",
        "* 3",
        "( 3",
        "3 )",
        "( )",
        "( 3 + 5",
        "3 ? 5",
        "? 3",
    ],
)
def test_malformed_expression_is_rejected(text: str):
    with pytest.raises(NoValueError):
        parse(tokens_of(text))


@pytest.mark.parametrize("text", ["5 / 0", "0 / 0", "5 / ( 3 - 3 )", f"0 {DIVIDES} 5"])
def test_division_by_zero_has_no_value(text: str):
    with pytest.raises(NoValueError):
        compute(parse(tokens_of(text)))


@pytest.mark.parametrize("text", ["?", "3 + ?", "? * 2", "- ?", "( ? + 1 ) / 2"])
def test_value_with_an_unknown_is_open(text: str):
    assert compute(parse(tokens_of(text))) is None


@pytest.mark.parametrize(
    ("text", "result", "unknown"),
    [
        ("?", 8, 8),
        ("3 + ?", 8, 5),
        ("? + 3", 8, 5),
        ("9 - ?", 5, 4),
        ("? - 4", 5, 9),
        ("3 * ?", 12, 4),
        ("? * 3", 12, 4),
        ("12 / ?", 4, 3),
        ("? / 4", 3, 12),
        ("- ?", 5, -5),
        ("2 * ( ? + 1 ) - 4", 6, 4),
        ("3 * ?", 7, Fraction(7, 3)),
        ("0 * 5 + ?", 2, 2),
        ("? / 5", 0, 0),
    ],
)
def test_solution(text: str, result: int, unknown: Fraction):
    assert solve(parse(tokens_of(text)), Fraction(result)) == unknown


@pytest.mark.parametrize(
    ("text", "result"),
    [
        pytest.param("? * 0", 0, id="any number solves it"),
        pytest.param("0 / ?", 0, id="any number but zero solves it"),
        pytest.param("? * 0", 5, id="nothing solves it"),
        pytest.param("? / 0", 5, id="nothing is divided by zero"),
        pytest.param("0 / ?", 5, id="only zero divided by zero"),
        pytest.param("0 / ( ? - 3 )", 5, id="only zero divided by zero, nested"),
        pytest.param("5 / ?", 0, id="no quotient is zero"),
        pytest.param("? + ?", 8, id="two unknowns"),
        pytest.param("? + 1 - ?", 1, id="two unknowns that cancel"),
    ],
)
def test_no_single_solution(text: str, result: int):
    with pytest.raises(NoValueError):
        solve(parse(tokens_of(text)), Fraction(result))


NUMBERS = st.integers(0, 99).map(Fraction)
TREES = st.recursive(
    NUMBERS,
    lambda trees: st.builds(Operation, st.sampled_from("+-*/"), trees, trees),
    max_leaves=10,
)


def spell(node: Fraction | Operation | None) -> list[Fraction | str]:
    """Return the tokens of a tree, every operation in parentheses."""
    if isinstance(node, Operation):
        return ["(", *spell(node.left), node.sign, *spell(node.right), ")"]
    return ["?" if node is None else node]


@given(TREES)
def test_a_spelled_tree_parses_to_itself(tree: Fraction | Operation):
    assert parse(spell(tree)) == tree


@given(TREES, st.integers(-99, 99), st.data())
def test_solution_gives_the_value_it_was_made_from(
    tree: Fraction | Operation, unknown: int, data: st.DataObject
):
    """Replace one number of a tree by the unknown; its solution restores the tree's value."""
    places = [at for at, token in enumerate(spell(tree)) if isinstance(token, Fraction)]
    at = data.draw(st.sampled_from(places))
    tokens = spell(tree)
    known = [*tokens[:at], "(", "-", Fraction(-unknown), ")", *tokens[at + 1 :]]
    try:
        result = compute(parse(known))
        assert result is not None
        found = solve(parse([*tokens[:at], "?", *tokens[at + 1 :]]), result)
    except NoValueError:
        return  # a division by zero, or the unknown does not matter
    assert found == unknown
