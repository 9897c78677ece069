"""Answers: the text that a person would type, from any output of a model."""

from string import ascii_letters, digits

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qwen_captcha.recognition.arithmetic.evaluate import looks_like_arithmetic
from qwen_captcha.recognition.extraction import (
    ExtractedAnswer,
    extract_answer,
)
from qwen_captcha.recognition.options import (
    Case,
    Kind,
    Options,
)

READING_KINDS = [Kind.AUTO, Kind.TEXT, Kind.DIGITS, Kind.CHINESE]


def answer_to(raw_response: str, kind: Kind = Kind.AUTO, **options: object) -> str | None:
    """Extract the answer of a model that can answer questions."""
    extracted = extract_answer(
        raw_response,
        Options(kind=kind, **options),
        answers_questions=True,
    )
    return None if extracted is None else extracted.text


@pytest.mark.parametrize(
    ("raw_response", "text"),
    [
        ("3 plus 5 = ?", "8"),
        ("12 Divided by 4", "3"),
        ("12 times 3 minus 4 =", "32"),
        ("3+__=8", "5"),
        ("__+3=8", "5"),
        ("3+____=8", "5"),
        ("__3+5=?__", "8"),
        ("3 + （ ） = 8", "5"),
        ("3plus5", "3plus5"),
        ("a__b", "a__b"),
    ],
)
def test_arithmetic_in_english_words_and_with_blanks(raw_response: str, text: str):
    assert answer_to(raw_response) == text


def test_words_stay_where_the_kind_is_text():
    assert answer_to("3 plus 5", Kind.TEXT) == "3plus5"


@pytest.mark.parametrize(
    ("raw_response", "text"),
    [
        ("a3b9", "a3b9"),
        (" a3b9\n", "a3b9"),
        ("a3b9.", "a3b9"),
        ("a3b9。", "a3b9"),
        ("ａ３ｂ９", "a3b9"),
        ("a 3 b 9", "a3b9"),
        ("a, 3, b, 9", "a3b9"),
        ("a\n3\nb\n9", "a3b9"),
        ("a3\nb9", "a3b9"),
        ("1\n1", "11"),
        ("a3b9\na3b9", "a3b9"),
        ('"a3b9"', "a3b9"),
        ("'a3b9'", "a3b9"),
        ("“a3b9”", "a3b9"),
        ("「a3b9」", "a3b9"),
        ('"a3b9."', "a3b9"),
        ('"**a3b9**."', "a3b9"),
        ("**a3b9**", "a3b9"),
        ("`a3b9`", "a3b9"),
        ("```\na3b9\n```", "a3b9"),
        ("```text\na3b9\n```", "a3b9"),
        ("# a3b9", "a3b9"),
        ("$a3b9$", "a3b9"),
        (r"\(\text{a3b9}\)", "a3b9"),
        ("验证码是：a3b9", "a3b9"),
        ("验证码是a3b9，区分大小写。", "a3b9"),
        ("这张图片中的验证码是 a3b9。请注意区分大小写。", "a3b9"),
        ("这是一个验证码，内容为a3b9", "a3b9"),
        ("该图片中的验证码为：**a3b9**", "a3b9"),
        ('The captcha text is "a3b9".', "a3b9"),
        ("The text in the image is: **a3b9**", "a3b9"),
        ("The text in the image is:\n\na3b9", "a3b9"),
        ("The text in the image is:\n\nRead", "Read"),
        ("Sure! Here is the text from the image: a3b9", "a3b9"),
        ("Sure!\na3b9", "a3b9"),
        ("Captcha\na3b9", "a3b9"),
        ('The image shows a captcha with the text "a3b9" in a distorted font.', "a3b9"),
        ('"a3b9" is the text in the image.', "a3b9"),
        ("The letters are “a”, “3” and “b”.", "a3b"),
        ("The code is a3b9. Let me know if you need more.", "a3b9"),
        ("The text is: a3b9 (all lowercase)", "a3b9"),
        ("a3b9（区分大小写）", "a3b9"),
        ("a3b9\n\nThis is the text shown in the captcha image.", "a3b9"),
        ("The text is distorted.\nIt reads: a3b9", "a3b9"),
        ("a3b9\nThe text is distorted.", "a3b9"),
        ("Text: a3b0\n\nLooking again, the text is a3b9", "a3b9"),
        ("起同必音", "起同必音"),
        ("起 同 必 音", "起同必音"),
        ("起、同、必、音", "起同必音"),
        ("验证码是“起同必音”。", "起同必音"),
        ("图片中的文字是：起同必音", "起同必音"),
        ("图片上写着“起同必音”", "起同必音"),
        ("HELLO WORLD", "HELLOWORLD"),
    ],
)
@pytest.mark.parametrize("kind", READING_KINDS)
def test_filler_words_are_removed_from_a_code(raw_response: str, text: str, kind: Kind):
    assert answer_to(raw_response, kind) == text


@pytest.mark.parametrize(
    "code",
    [
        "is",
        "the",
        "captcha",
        "Text",
        "code",
        "x",
        "X",
        "i",
        "a",
        "3X7",
        "13x7",
        "3x77",
        "3x7k",
        "x86",
        "sorry",
        "0042",
        "007",
        "1e5",
        "0x1F",
        "None",
        "a-b",
        "1-a",
        "a+b",
        "N0",
        "blurry",
        "it",
        "answer",
        "12:30",
        "a_b",
        "#a3",
        "a.b",
    ],
)
@pytest.mark.parametrize("kind", READING_KINDS)
def test_code_that_resembles_something_else_stays(code: str, kind: Kind):
    assert answer_to(code, kind) == code


WRAPPINGS = [
    "{}",
    " {}\n",
    "{}.",
    '"{}"',
    "'{}'",
    "“{}”",
    "**{}**",
    "`{}`",
    "```\n{}\n```",
    "$\\text{{{}}}$",
    "The captcha text is {}",
    'The captcha text is "{}".',
    "The text in the image is: **{}**",
    "The captcha text is:\n\n{}",
    "Answer: {}",
    "It says {}.",
    "The image shows the text “{}”",
    "验证码是：{}",
    "验证码是{}",
    "图片中的文字为“{}”。",
    "答案：{}",
]
CODES = st.text(ascii_letters + digits, min_size=1, max_size=8).filter(
    lambda code: not looks_like_arithmetic(code)
)
PHRASE_CODES = st.sampled_from(
    ["is", "the", "text", "Captcha", "a", "I", "it", "says", "x", "Read"]
)
CHINESE_CODES = st.text(
    st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1, max_size=5
)


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@given(code=st.one_of(CODES, PHRASE_CODES), kind=st.sampled_from(READING_KINDS))
@example(code="text", kind=Kind.TEXT)
@example(code="13x7", kind=Kind.AUTO)
def test_no_letter_or_digit_of_a_code_is_lost(wrapping: str, kind: Kind, code: str):
    assert answer_to(wrapping.format(code), kind) == code


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@given(code=CHINESE_CODES)
@example(code="是非为人")
@example(code="的中上里")
def test_no_character_of_a_chinese_code_is_lost(wrapping: str, code: str):
    assert answer_to(wrapping.format(code), Kind.CHINESE) == code


@given(code=CODES)
def test_spaces_between_characters_vanish(code: str):
    assert answer_to(" ".join(code), Kind.TEXT) == code
    assert answer_to("The captcha text is: " + " ".join(code), Kind.TEXT) == code


@given(code=CODES)
def test_full_width_code_is_folded(code: str):
    wide = "".join(chr(ord(character) + 0xFEE0) for character in code)

    assert answer_to(wide) == code


@pytest.mark.parametrize(
    ("raw_response", "text"),
    [
        ("3+5=?", "8"),
        ("12×3=", "36"),
        ("9÷3", "3"),
        ("64-42", "22"),
        ("9 + 8", "17"),
        ("3x7=?", "21"),
        ("3-5=?", "-2"),
        ("三加五等于", "8"),
        ("３＋５＝？", "8"),
        ("3+5=8", "8"),
        ("3+5=9", "8"),
        ("3+?=8", "5"),
        ("3 + 5 = **8**", "8"),
        ("“3+5=?”的答案是8", "8"),
        ("- 12 + 5 = 17", "17"),
        (r"\( 3 + 5 = 8 \)", "8"),
        (r"\[ 3 \times 5 = ? \]", "15"),
        (r"\frac{6}{2} = ?", "3"),
        ("The expression in the image is 12 + 5 = ?", "17"),
        ("Expression: 7 - 4 = ?", "3"),
        ("该算式为3+5=?", "8"),
        ("3+5=?\n8", "8"),
        ("3+5=\n8", "8"),
        ("12\n+5=", "17"),
        ("3 + 5 = 8, so the answer is 8.", "8"),
        ("首先，3+5=8，所以答案是8。", "8"),
        ("答案是8，因为3+5=8", "8"),
        ("The result of 3 + 5 is 8.", "8"),
        ("The answer to the math problem 3 + 5 = ? is 8.", "8"),
        ("Let's calculate: 3 + 5 = 8", "8"),
        ("Step 1: 3 + 5 = 8\nStep 2: 8 * 2 = 16\nSo the answer is 16.", "16"),
        (
            "The image shows the equation 3 + 5 = ?.\n\nTo solve it:\n3 + 5 = 8\n\n"
            "Therefore, the answer is 8.",
            "8",
        ),
        ("8", "8"),
        ("8.", "8"),
        ("-8", "-8"),
        ("- 8", "-8"),
        ("= 8", "8"),
        ("Answer: 8", "8"),
        ("**Answer:** 8", "8"),
        (r"$\boxed{8}$", "8"),
    ],
)
@pytest.mark.parametrize("kind", [Kind.AUTO, Kind.MATH])
def test_arithmetic_is_computed(raw_response: str, text: str, kind: Kind):
    assert answer_to(raw_response, kind) == text


@pytest.mark.parametrize(("raw_response", "text"), [("13x7", "91"), ("007", "7"), ("八", "8")])
def test_kind_math_computes_what_may_also_be_a_code(raw_response: str, text: str):
    assert answer_to(raw_response, Kind.MATH) == text
    assert answer_to(raw_response, Kind.AUTO) == raw_response


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.DIGITS, Kind.CHINESE])
@pytest.mark.parametrize("raw_response", ["64-42", "3+5=?", "三加五等于", "5/0"])
def test_reading_kinds_never_compute(raw_response: str, kind: Kind):
    assert answer_to(raw_response, kind) == raw_response


@pytest.mark.parametrize(
    "raw_response",
    ["5/0", "5÷0=?", "7÷2=", "3++5=?", "a+5=?", "3+?=?", "9" * 400 + "+1=", "(" * 1000 + "=1+"],
)
@pytest.mark.parametrize("kind", [Kind.AUTO, Kind.MATH])
def test_arithmetic_without_value_is_no_answer(raw_response: str, kind: Kind):
    assert answer_to(raw_response, kind) is None


@pytest.mark.parametrize("raw_response", ["abc", "a3b9", "3x7k", "起同必音", "9" * 400, "1.5"])
def test_kind_math_accepts_only_arithmetic(raw_response: str):
    assert answer_to(raw_response, Kind.MATH) is None


REFUSALS = [
    "I can't help with that.",
    "I’m sorry, but I can’t assist with this.",
    "As an AI language model, I cannot read captchas.",
    "Unable to read the captcha.",
    "抱歉，我无法识别",
    "无法识别",
    "图片太模糊了，无法看清",
]


@pytest.mark.parametrize("raw_response", ["", " \n", '""', "...", "?", "**", "```\n```", *REFUSALS])
@pytest.mark.parametrize("kind", Kind)
def test_empty_reply_or_refusal_is_no_answer(raw_response: str, kind: Kind):
    assert answer_to(raw_response, kind) is None


@pytest.mark.parametrize(
    "raw_response",
    [
        "Answer:",
        "The text in the image is:",
        "The text is not clear",
        "The text is blurry and hard to read.",
        "The text is unreadable.",
        "There is no text in the image.",
        "The captcha contains letters and digits, and the text is distorted.",
        "图片中没有文字",
        "N/A",
    ],
)
@pytest.mark.parametrize("kind", READING_KINDS)
def test_prose_without_a_code_is_no_answer(raw_response: str, kind: Kind):
    assert answer_to(raw_response, kind) is None


@pytest.mark.parametrize(
    ("raw_response", "text"),
    [
        ("12", "12"),
        ("Twelve  months", "Twelve months"),
        ("The answer is: twelve months.", "twelve months"),
        ('The answer is "blue".', "blue"),
        ("blue", "blue"),
        ("blue\n\nThe sky is blue.", "blue"),
        ("12\n\nA year has 12 months.", "12"),
        ("There are twelve months in a year.", "There are twelve months in a year."),
        ("北京", "北京"),
        ("答案是北京。", "北京"),
        ("不能", "不能"),
        ("2020-2021", "2020-2021"),
    ],
)
def test_the_answer_to_a_question_is_not_shortened(raw_response: str, text: str):
    assert answer_to(raw_response, Kind.QUESTION) == text


@pytest.mark.parametrize("prompt", [None, "Answer the question."])
def test_question_to_a_model_that_cannot_answer_has_no_answer(prompt: str | None):
    options = Options(kind=Kind.QUESTION, prompt=prompt)

    assert extract_answer("12", options, answers_questions=False) is None
    assert extract_answer("12", options, answers_questions=True) == ExtractedAnswer("12")


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.QUESTION])
def test_other_kinds_do_not_need_a_model_that_answers(kind: Kind):
    extracted = extract_answer("12", Options(kind=kind), answers_questions=False)
    assert extracted == ExtractedAnswer("12", computed=kind is Kind.MATH)


@pytest.mark.parametrize(
    ("raw_response", "text"),
    [
        (" a3b9\n", "a3b9"),
        ('"a3b9"', "a3b9"),
        ("“a3b9”", "a3b9"),
        ("\"'a3b9'\"", "'a3b9'"),
        ("**a3b9**", "**a3b9**"),
        ("a 3 b 9.", "a 3 b 9."),
        ("ａ３", "ａ３"),
        ("3+5=?", "3+5=?"),
        ("5/0", "5/0"),
        ("The captcha text is a3b9.", "The captcha text is a3b9."),
        ("line one\nline two", "line one\nline two"),
        ('{"text": "a3b9"}', '{"text": "a3b9"}'),
        ('"a" or "b"', '"a" or "b"'),
    ],
)
@pytest.mark.parametrize("kind", [Kind.AUTO, Kind.MATH])
def test_answer_to_the_callers_prompt_is_only_trimmed_and_unquoted(
    raw_response: str, text: str, kind: Kind
):
    assert answer_to(raw_response, kind, prompt="Read it.") == text


@pytest.mark.parametrize("raw_response", ["", " \n", '""', *REFUSALS])
def test_an_answer_to_a_prompt_is_neither_empty_nor_a_refusal(raw_response: str):
    assert answer_to(raw_response, prompt="Read it.") is None


@pytest.mark.parametrize(
    ("case", "text"), [(Case.KEEP, "aB3中"), (Case.LOWER, "ab3中"), (Case.UPPER, "AB3中")]
)
@pytest.mark.parametrize("prompt", [None, "Read it."])
def test_case_is_applied_last(case: Case, text: str, prompt: str | None):
    assert answer_to("“aB3中”", case=case, prompt=prompt) == text


@pytest.mark.parametrize("case", Case)
def test_case_does_not_touch_computing(case: Case):
    assert answer_to("3X5=?", case=case) == "15"


def test_the_prompt_does_not_name_the_charset():
    assert answer_to("a3b9", charset="0123456789") == "a3b9"


@given(raw_response=st.text(max_size=300), kind=st.sampled_from(Kind))
def test_any_reply_is_safe(raw_response: str, kind: Kind):
    answer = answer_to(raw_response, kind)

    assert answer is None or answer == answer.strip() != ""


@given(
    st.lists(
        st.sampled_from(
            [
                "The text is ",
                "验证码是",
                "：",
                '"',
                "**",
                "a3b9",
                "3+5",
                "=",
                "?",
                "\n",
                ". ",
                " ",
                "图片",
                "I'm",
            ]
        ),
        max_size=25,
    )
)
def test_any_mixture_of_filler_words_is_safe(pieces: list[str]):
    answer = answer_to("".join(pieces))

    assert answer is None or (answer and not any(character.isspace() for character in answer))


ENDLESS = [
    "a",
    "1",
    "中",
    " ",
    "\n",
    "a\n",
    '"',
    "'",
    "*",
    "**",
    "_",
    "`",
    "```\n",
    "\\",
    "\\frac{",
    "{",
]
ENDLESS += [
    "(",
    "-",
    "- 1 ",
    "> ",
    "1+",
    "1 + 1\n",
    "=",
    "the ",
    "captcha: ",
    "captcha is ",
    "a. ",
    "a, ",
]
ENDLESS += [
    "验证码",
    "验证码是",
    "是",
    "。",
    "中，",
    "sorry ",
    "as a b ",
    "我的",
    "无法",
    "**:",
    '"a" ',
    "'a' ",
]


@pytest.mark.parametrize("piece", ENDLESS)
def test_endless_reply_is_no_answer(piece: str):
    assert answer_to(piece * (100_000 // len(piece))) is None
