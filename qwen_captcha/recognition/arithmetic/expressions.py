"""Expressions with at most one unknown: parse, compute, solve.

Values are exact rationals. An expression without a value raises `NoValueError`.

Grammar, over numbers and signs:

    sum     = product {("+" | "-") product}
    product = operand {("*" | "/" | DIVIDES) operand}
    operand = number | "?" | "-" operand | "(" sum ")"
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

# The division whose operands stand reversed: a DIVIDES b is b / a.
DIVIDES = "\\"
UNKNOWN = "?"

Number = Fraction
Token = Number | str


class NoValueError(Exception):
    """The tokens are no expression of the grammar, or it has no single value."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Two operands joined by one of the signs + - * /."""

    sign: str
    left: Node
    right: Node


# A parsed expression; None is the unknown.
Node = Number | Operation | None
_Function = Callable[[Number, Number], Number]

_COMPUTE: dict[str, _Function] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
# From the result and the right operand to the left operand. Division is done in two steps, so that
# ?÷0=5 fails like 5÷0 instead of giving 0.
_FIND_LEFT: dict[str, _Function] = {
    "+": operator.sub,
    "-": operator.add,
    "*": operator.truediv,
    "/": lambda result, right: result / (1 / right),
}
# From the result and the left operand to the right operand. Division is done in two steps, so that
# 0÷?=5 fails like 5÷?=0 instead of giving 0.
_FIND_RIGHT: dict[str, _Function] = {
    "+": operator.sub,
    "-": lambda result, left: left - result,
    "*": operator.truediv,
    "/": lambda result, left: 1 / (result / left),
}


def parse(tokens: Sequence[Token]) -> Node:
    """Parse an expression; one unknown after its end is a question mark and ignored.

    Raises:
        NoValueError: The tokens do not follow the grammar.
    """
    parser = _Parser(tokens)
    node = parser.sum()
    if list(parser.rest()) not in ([], [UNKNOWN]):
        raise NoValueError
    return node


def compute(node: Node) -> Number | None:
    """Return the value of a node, or None where it contains the unknown.

    Raises:
        NoValueError: It divides by zero.
    """
    if not isinstance(node, Operation):
        return node
    left, right = compute(node.left), compute(node.right)
    return None if left is None or right is None else _apply(_COMPUTE[node.sign], left, right)


def solve(node: Node, result: Number) -> Number:
    """Return the unknown for which a node has a value, undoing operations from outside in.

    Raises:
        NoValueError: There are several unknowns, no solution, or more than one.
    """
    while isinstance(node, Operation):
        sign, left, right = node.sign, compute(node.left), compute(node.right)
        if right is not None:
            node, result = node.left, _apply(_FIND_LEFT[sign], result, right)
        elif left is not None:
            node, result = node.right, _apply(_FIND_RIGHT[sign], result, left)
        else:
            raise NoValueError
    return result


def _apply(function: _Function, first: Number, second: Number) -> Number:
    """Call a function of two numbers; a division by zero has no value."""
    try:
        return function(first, second)
    except ZeroDivisionError:
        raise NoValueError from None


class _Parser:
    """Recursive descent; the number of tokens bounds its depth."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self._position = 0

    def rest(self) -> Sequence[Token]:
        """Return the tokens not yet consumed."""
        return self._tokens[self._position :]

    def sum(self) -> Node:
        """Consume a sum."""
        node = self._product()
        while sign := self._take("+", "-"):
            node = Operation(sign, node, self._product())
        return node

    def _product(self) -> Node:
        node = self._operand()
        while sign := self._take("*", "/", DIVIDES):
            operand = self._operand()
            reversed_ = sign == DIVIDES
            node = Operation("/", operand, node) if reversed_ else Operation(sign, node, operand)
        return node

    def _operand(self) -> Node:
        if self._take("-"):
            operand = self._operand()
            if isinstance(operand, Number):
                return -operand
            return Operation("-", Number(0), operand)
        if self._take("("):
            node = self.sum()
            if not self._take(")"):
                raise NoValueError
            return node
        if self._take(UNKNOWN):
            return None
        return self._number()

    def _number(self) -> Number:
        for token in self.rest()[:1]:
            if isinstance(token, Number):
                self._position += 1
                return token
        raise NoValueError

    def _take(self, *signs: str) -> str | None:
        """Consume and return the next token where it is one of the signs."""
        for token in self.rest()[:1]:
            if isinstance(token, str) and token in signs:
                self._position += 1
                return token
        return None
