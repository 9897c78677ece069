"""Arithmetic captchas: what is one, and the integer that it asks for."""

from fractions import Fraction
from string import ascii_letters, digits

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qwen_captcha.recognition.arithmetic.evaluate import (
    MAX_CHARACTERS,
    MAX_DIGITS,
    evaluate_expression,
    looks_like_arithmetic,
)

COMPUTED = [
    # The forms that captcha libraries draw.
    ("3+5=?", 8),
    ("12×3=", 36),
    ("9÷3", 3),
    ("7 - 4 = ?", 3),
    ("5*5=", 25),
    ("9 *67=", 603),
    ("0x0-0=?", 0),
    ("5-6-1=?", -2),
    ("8/4=?", 2),
    ("10-17", -7),
    ("12 + 5 = ", 17),
    # Chinese.
    ("三加五等于", 8),
    ("三加五等于几？", 8),
    ("壹拾贰减叁", 9),
    ("捌乘贰等于", 16),
    ("8乘以7等于?", 56),
    ("九除以三是多少", 3),
    ("3加上5得几", 8),
    ("十减去四得", 6),
    ("十二减三", 9),
    ("12减3等于", 9),
    ("十二减?等于三", 9),
    ("叄加贰等於", 5),
    ("八除於二", 4),
    ("一百零五加二十等于多少?", 125),
    ("負三加五等於幾", 2),
    ("两加两=?", 4),
    ("6除以3", 2),
    ("3除6", 2),
    ("6除3", 2),
    ("0除5=", 0),
    # Forms of digits and signs.
    ("３＋５＝？", 8),
    ("（３＋５）×２＝", 16),
    ("3x5=?", 15),
    ("3x5", 15),
    ("3X5=", 15),
    ("3✕5", 15),
    ("3·5=", 15),
    ("6:3=", 2),
    ("6∶3=?", 2),
    ("7−4", 3),
    ("7–4", 3),
    ("7—4=", 3),
    ("7－4=", 3),
    ("3+5=___", 8),
    ("3+5=□", 8),
    ("3+5?", 8),
    ("3+5??", 8),
    ("\t3 +\n5 =\u3000?", 8),
    ("7·3", 21),
    ("7•3=?", 21),
    ("12:4", 3),
    ("12：4=", 3),
    # Precedence, parentheses, signs, exactness.
    ("2+3×4", 14),
    ("(2+3)*4=", 20),
    ("(2+3)×4", 20),
    ("（2+3）×4=?", 20),
    ("2×(3+4)-5=", 9),
    ("6÷4×2", 3),
    ("-3+5=", 2),
    ("3×-5", -15),
    ("3-(-5)=?", 8),
    # Already answered, rightly or wrongly.
    ("3+5=8", 8),
    ("3+5=9", 8),
    ("3+5=?=8", 8),
    ("12+3×2=12+6=18", 18),
    ("8=3+5", 8),
    ("9=3+5", 8),
    ("=8", 8),
    ("?=3+5", 8),
    # A missing operand.
    ("3+?=8", 5),
    ("?-4=5", 9),
    ("?×3=12", 4),
    ("7-?=2", 5),
    ("5×?=35", 7),
    ("5·?=35", 7),
    ("12÷?=4", 3),
    ("8=3+?", 5),
    ("3加几等于8", 5),
    ("3+( )=8", 5),
    ("（ ）-3=8", 11),
    ("3+5=( )", 8),
    ("3+__=8", 5),
    ("(?+1)×2=8", 3),
]


@pytest.mark.parametrize(("text", "value"), COMPUTED)
def test_expression_has_its_value(text: str, value: int):
    assert evaluate_expression(text) == value


@pytest.mark.parametrize("text", [text for text, _ in COMPUTED])
def test_an_expression_is_arithmetic(text: str):
    assert looks_like_arithmetic(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8", 8), ("0042", 42), ("-7", -7), ("八", 8), ("十二", 12), ("８", 8), ("13x7", 91)],
)
def test_a_value_that_is_no_arithmetic(text: str, value: int):
    assert evaluate_expression(text) == value
    assert not looks_like_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "5/0",
        "5÷0=?",
        "5÷(3-3)=",
        "0÷0",
        "7÷2",
        "1÷3×2=",
        "3++5",
        "3+",
        "3+=?",
        "(3+5=?",
        "()=",
        "=",
        "3+?=?",
        "?+?=8",
        "?×0=0",
        "0÷?=5",
        "3×?=7",
        "a+5=?",
        "3+S=?",
        "3²+1=",
        "一百三加一",
        "999999999999*999999999999",
    ],
)
def test_arithmetic_without_an_integer_value(text: str):
    assert looks_like_arithmetic(text)
    assert evaluate_expression(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "?",
        "-",
        "x",
        "X",
        "+",
        "a3b9",
        "3x7k",
        "13x7",
        "3x71",
        "3X7",
        "x3",
        "3x",
        "a-b",
        "a+b",
        "12:30",
        "12:04",
        "1234:2",
        "1.5+2",
        "起同必音",
        "是非得失",
        "几何是什么",
        "三心二意",
        "加减乘除",
        "为什么",
        "3 5 7",
    ],
)
def test_text_is_not_arithmetic(text: str):
    assert not looks_like_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "-",
        "x",
        "3**2",
        "?÷0=5",
        "(?-3)÷0=2",
        "a3b9",
        "3x7k",
        "a-b",
        "起同必音",
        "1.5",
        "١+٢",
    ],
)
def test_text_has_no_value(text: str):
    assert evaluate_expression(text) is None


MALFORMED = [
    pytest.param("9" * 400, id="400 digits"),
    pytest.param("9" * 400 + "+1=", id="400 digits in a sum"),
    pytest.param("9" * 5000 + "+1=", id="more digits than int() takes"),
    pytest.param("(" * 10**6 + "1" + ")" * 10**6 + "+1=", id="a million parentheses"),
    pytest.param("-" * 10**6 + "1", id="a million signs"),
    pytest.param("=" * 10**6, id="a million equals signs"),
    pytest.param("1+" * 10**5 + "1=", id="a hundred thousand operands"),
    pytest.param("9*" * 30 + "9", id="a huge product within the length"),
    pytest.param("一" * 10**5, id="an endless numeral"),
    pytest.param("1" + " " * 10**6 + "x", id="a million spaces"),
]


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_text_has_no_value(text: str):
    looks_like_arithmetic(text)

    assert evaluate_expression(text) is None


@pytest.mark.parametrize("text", ["9" * 400 + "+1=", "1+" * 10**5 + "1", "9*" * 30 + "9"])
def test_arithmetic_too_large_to_compute_is_still_no_code(text: str):
    assert looks_like_arithmetic(text)


def test_limits_are_inclusive():
    largest = "9" * MAX_DIGITS
    longest = "(" * 31 + "1" + ")" * 31

    assert evaluate_expression(largest) == int(largest)
    assert evaluate_expression(f"-{largest}") == -int(largest)
    assert evaluate_expression(f"{largest}+1") is None
    assert evaluate_expression("1" + largest) is None
    assert evaluate_expression(longest) == 1
    assert len(longest) == MAX_CHARACTERS - 1
    assert evaluate_expression(f"-{longest}") == -1
    assert evaluate_expression(f"--{longest}") is None


def test_spaces_do_not_count_towards_the_length():
    assert evaluate_expression("3" + " " * 200 + "+5") == 8


# Every spelling of an operator that a formula may mix.
GLYPHS = {
    "+": ["+", "＋", " + ", "加", "加上"],
    "-": ["-", "−", "－", " - ", "减", "减去"],
    "*": ["*", "×", "x", " X ", "乘", "乘以"],
    "/": ["/", "÷", " / ", "除以"],
}
ENDINGS = ["", "=", "=?", " = ?", "＝？", "等于", "等于几", "等于多少?", "=7"]
FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")


def reference(numbers: list[int], signs: list[str]) -> Fraction | None:
    """Compute a formula without parentheses: first its products, then their sum."""
    terms = [Fraction(numbers[0])]
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign in "+-":
            terms.append(Fraction(number if sign == "+" else -number))
        elif sign == "*":
            terms[-1] *= number
        elif number == 0:
            return None
        else:
            terms[-1] /= number
    return sum(terms, Fraction(0))


@given(
    numbers=st.lists(st.integers(0, 999), min_size=2, max_size=6),
    ending=st.sampled_from(ENDINGS),
    data=st.data(),
)
def test_formula_agrees_with_fractions(numbers: list[int], ending: str, data: st.DataObject):
    signs = [data.draw(st.sampled_from("+-*/")) for _ in numbers[1:]]
    spelled = [data.draw(st.sampled_from([str(n), str(n).translate(FULL_WIDTH)])) for n in numbers]
    glyphs = [data.draw(st.sampled_from(GLYPHS[sign])) for sign in signs]
    text = "".join(a + b for a, b in zip(spelled, [*glyphs, ending], strict=True))
    assume(len(text) <= MAX_CHARACTERS)
    expected = reference(numbers, signs)

    value = evaluate_expression(text)

    if expected is None or expected.denominator != 1 or abs(expected) >= 10**MAX_DIGITS:
        assert value is None
    else:
        assert value == expected


@given(a=st.integers(0, 999), b=st.integers(1, 999), sign=st.sampled_from("+-*/"))
def test_missing_operand_restores_the_equation(a: int, b: int, sign: str):
    result = reference([a, b], [sign])
    assume(result is not None and result.denominator == 1)

    assert evaluate_expression(f"?{sign}{b}={result}") == a
    expected = None if a == 0 and sign in "*/" else b
    assert evaluate_expression(f"{a}{sign}?={result}") == expected


@given(st.text("0123456789+-*/×÷xX()=?？＝加减乘除以等于三十百万零得几 \n", max_size=80))
def test_any_text_of_signs_is_safe(text: str):
    value = evaluate_expression(text)

    assert value is None or abs(value) < 10**MAX_DIGITS
    assert looks_like_arithmetic(text) in (True, False)


@given(st.text(max_size=200))
def test_any_text_is_safe(text: str):
    value = evaluate_expression(text)

    assert value is None or isinstance(value, int)


@given(st.text(ascii_letters + digits, min_size=1, max_size=8))
def test_a_code_of_letters_and_digits_is_never_arithmetic(code: str):
    assert not looks_like_arithmetic(code)
