"""Markup: the plain text under full-width forms, Markdown, LaTeX and quotes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_captcha.recognition.markup import (
    fold_forms,
    plain_lines,
    unquote,
)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("ａ３Ｂ９", "a3B9"),
        ("３＋５＝？", "3+5=?"),
        ("（１２）－４", "(12)-4"),
        ("验证码：ａ３", "验证码:a3"),
        ("a\u3000b\u00a0c", "a b c"),
        ("a\u200b3\ufeffb", "a3b"),
        ("I’m ‘a3’", "I'm 'a3'"),
        ("“a3”", '"a3"'),
    ],
)
def test_forms_are_folded(text: str, folded: str):
    assert fold_forms(text) == folded


@pytest.mark.parametrize(
    "text", ["", "a3b9", "起同必音", "。、「」《》", "×÷−–—", "①²½", "ｱｲｳ", "〇"]
)
def test_other_characters_are_not_folded(text: str):
    assert fold_forms(text) == text


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)))
def test_chinese_characters_are_never_damaged(text: str):
    assert fold_forms(text) == text
    assert plain_lines(text) == ([text] if text else [])


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param("a3b9", ["a3b9"], id="plain"),
        pytest.param("", [], id="nothing"),
        pytest.param(" \n\t\n", [], id="blank lines"),
        pytest.param("Text:\n\na3b9\r\n", ["Text:", "a3b9"], id="two lines"),
        pytest.param("# a3b9", ["a3b9"], id="heading"),
        pytest.param("### **Answer**", ['"Answer"'], id="bold heading"),
        pytest.param("> a3b9", ["a3b9"], id="quotation"),
        pytest.param("- a3b9", ["a3b9"], id="bullet"),
        pytest.param("* 12 + 5 = 17", ["12 + 5 = 17"], id="star bullet"),
        pytest.param("- 12 + 5 = 17", ["12 + 5 = 17"], id="dash bullet before a formula"),
        pytest.param("- 8", ["- 8"], id="negative number"),
        pytest.param("-8", ["-8"], id="negative number without space"),
        pytest.param("#a3", ["#a3"], id="hash of a code"),
        pytest.param("```\na3b9\n```", ["a3b9"], id="fence"),
        pytest.param("```text\na3b9\n```", ["a3b9"], id="fence with language"),
        pytest.param("```text\ntext\n```", ["text"], id="fence around its own language's name"),
        pytest.param("```a3b9```", ["```a3b9```"], id="fence in one line is a quote"),
        pytest.param("The text is **a3b9**.", ['The text is "a3b9".'], id="bold word"),
        pytest.param("The text is __a3b9__.", ['The text is "a3b9".'], id="bold word, underscores"),
        pytest.param("**Answer:** 8", ["Answer: 8"], id="bold label"),
        pytest.param("**3*5=?**", ["3*5=?"], id="bold product"),
        pytest.param("3**2=?", ["3**2=?"], id="no bold"),
        pytest.param("**3 + 5 = 8**", ["3 + 5 = 8"], id="bold formula"),
        pytest.param("3*5*2=", ["3*5*2="], id="product"),
        pytest.param("a_b", ["a_b"], id="underscore of a code"),
    ],
)
def test_markdown_is_removed(text: str, lines: list[str]):
    assert plain_lines(text) == lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (r"\( 3 + 5 = 8 \)", "3 + 5 = 8"),
        (r"\[3 \times 5 = ?\]", "3 × 5 = ?"),
        (r"6 \div 3", "6 ÷ 3"),
        (r"3 \cdot 5", "3 × 5"),
        (r"\frac{6}{2} = ?", "(6)/(2) = ?"),
        (r"\dfrac{6}{2}", "(6)/(2)"),
        (r"\boxed{8}", "8"),
        (r"\text{a3b9}", "a3b9"),
        (r"\boxed{\text{a3b9}}", "a3b9"),
        (r"a\_b", "a_b"),
        ("a{b}", "a{b}"),
    ],
)
def test_latex_is_converted_to_text(text: str, line: str):
    assert plain_lines(text) == [line]


@pytest.mark.parametrize(
    "quoted",
    [
        '"a3"',
        "'a3'",
        "`a3`",
        "“a3”",
        "”a3”",
        "„a3“",
        "‘a3’",
        "「a3」",
        "『a3』",
        "«a3»",
        "‹a3›",
        '" a3 "',
    ],
)
def test_one_pair_of_quotes_is_removed(quoted: str):
    assert unquote(quoted) == "a3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        '"',
        "a3",
        '"a3',
        'a3"',
        '"a3”',
        "“a3“",
        '"a" or "b"',
        "'a' 'b'",
        "*a3*",
        "_a3_",
        "$a3$",
        "(a3)",
    ],
)
def test_other_texts_are_not_unquoted(text: str):
    assert unquote(text) == text


def test_only_one_pair_is_removed():
    assert unquote("\"'a3'\"") == "'a3'"
    assert unquote('""') == ""


@pytest.mark.parametrize("text", ["*a3*", "_a3_", "$a3$", "【a3】", '"a3"'])
def test_marks_are_removed_on_request(text: str):
    assert unquote(text, marks=True) == "a3"


@given(st.text(max_size=200))
def test_any_text_is_safe(text: str):
    lines = plain_lines(fold_forms(text))

    assert all(line.strip() for line in lines)
    assert unquote(text) in (text, text[1:-1].strip())
