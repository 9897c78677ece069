"""Chatter: where an announcement ends, and what is prose or a refusal."""

from string import ascii_letters, digits

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_captcha.recognition.phrases import (
    find_announced,
    find_quoted,
    is_filler_word,
    is_prose,
    is_refusal,
    split_clauses,
)


@pytest.mark.parametrize(
    "announcement",
    [
        "The captcha text is ",
        "The text in the image is: ",
        "The text displayed in the captcha image is: ",
        "The text that is shown in the image is ",
        "The captcha reads ",
        "The image shows the text ",
        "The image contains the following text: ",
        "The captcha consists of the letters ",
        "The verification code appears to be ",
        "The text is likely ",
        "It says ",
        "It's ",
        "I see ",
        "I can see the text: ",
        "Here is the text from the image: ",
        "Sure! Here's the text: ",
        "Okay. The captcha is ",
        "Answer: ",
        "Answer : ",
        "Result = ",
        "The final answer is ",
        "So, the answer is ",
        "The result of 3 + 5 is ",
        "3 + 5 = 8, so the answer is ",
        "验证码:",
        "验证码是:",
        "验证码是",
        "图中的文字为 ",
        "图片中显示的是验证码:",
        "这张图片中的验证码是 ",
        "所以答案是",
        "答:",
        "计算结果为:",
        "CAPTCHA验证码是",
    ],
)
@pytest.mark.parametrize("code", ["a3b9", "is", '"the"', "captcha.", "8", "-5", "a 3 b 9"])
def test_announcement_ends_before_the_answer(announcement: str, code: str):
    announced = find_announced(announcement + code)

    assert announced is not None
    assert announced.strip() == code


@pytest.mark.parametrize(
    ("text", "announced"),
    [
        ("Captcha code - a3b9", "a3b9"),
        ("Captcha — a3b9", "a3b9"),
        ("Answer - 12 + 5", "12 + 5"),
        pytest.param("Answer - 8", None, id="a dash before a bare number is its sign"),
        pytest.param("The answer is - 8", "- 8", id="and stays behind a verb"),
    ],
)
def test_dash_announces(text: str, announced: str | None):
    assert find_announced(text) == announced


@pytest.mark.parametrize("code", ["起同必音", "是非中上", "的", "为人"])
@pytest.mark.parametrize(
    "announcement", ["验证码是", "验证码是:", "图片中的文字为", "The text is "]
)
def test_chinese_code_of_filler_words_stays_whole(announcement: str, code: str):
    assert find_announced(announcement + code) == code


@pytest.mark.parametrize(
    "text",
    [
        "The text in the image is:",
        "Answer:",
        "The captcha is",
        "验证码是:",
        "答案是",
        "Sure!",
        "It is",
    ],
)
def test_announcement_of_nothing(text: str):
    assert find_announced(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a3b9",
        "captcha",
        "is",
        "Sure",
        "x: 5",
        "12:30",
        "a - 5",
        "a: b",
        "6+6:3=?",
        "64-42",
        "3 + 5 = 8",
        "12 + 5 – 7 = 10",
        "起同必音",
        "是非中上",
        "Paris is the capital of France",
        "a3b9 is the text",
    ],
)
def test_no_announcement(text: str):
    assert find_announced(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "This is the text shown in the captcha image",
        "not readable",
        "too blurry to read",
        "No text",
        "Distorted letters overlapping several random lines",
        "a3b9 and the background is blue",
        "a3b9. Please check again",
        'shows "a3b9" clearly',
        "图片中没有文字",
        "这是一个验证码图片",
        "8,因为3+5=8",
        "a3b9。请注意",
    ],
)
def test_prose(text: str):
    assert is_prose(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a3b9",
        "a 3 i 9",
        "i a m a x",
        "the",
        "ab cd ef gh ij kl",
        "The Quick",
        "following finding",
        "3 + 5 = ?",
        "起同必音",
        "起 同 必 音",
        "验证码",
        "a,3,b,9",
        "三加五等于几?",
        "A.3.B.9",
    ],
)
def test_code_is_no_prose(text: str):
    assert not is_prose(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can't help with that.",
        "I cannot read the text in this image.",
        "I'm sorry, but I can't assist with that.",
        "I am so sorry",
        "Sorry, I can't.",
        '"I\'m unable to read it."',
        "Unfortunately, the image is too blurry.",
        "Unable to read the captcha",
        "I don't know",
        "As an AI language model, I",
        "unreadable",
        "N/A",
        "抱歉,我无法识别",
        "抱歉",
        "很抱歉,无法识别图片中的文字。",
        "对不起,我不能帮助你",
        "无法识别",
        "我无法识别这张图片",
        "图片中的文字无法辨认",
        "看不清",
        "作为一个AI语言模型",
        "作为人工智能",
        "识别失败",
    ],
)
def test_refusal(text: str):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a3b9",
        "sorry",
        "Sorry.",
        "unable",
        "Icant",
        "asanai",
        "na",
        "The text is a3b9",
        "起同必音",
        "不能",
        "无法无天",
        "作为",
        "抱歉不已",
        "The robot said: I cannot help",
    ],
)
def test_no_refusal(text: str):
    assert not is_refusal(text)


@given(st.text(ascii_letters + digits, min_size=1, max_size=8))
def test_a_code_is_never_prose(code: str):
    assert find_announced(code) is None
    assert not is_prose(code)
    assert not is_refusal(code)


@given(st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), min_size=1, max_size=5))
def test_a_chinese_code_is_never_prose(code: str):
    assert find_announced(code) is None
    assert not is_prose(code)


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("a3b9", []),
        ('The text "a3b9" is shown', ["a3b9"]),
        ('The word "captcha" and the code "a3b9"', ["captcha", "a3b9"]),
        ("The code `a3b9`", ["a3b9"]),
        ("图片上写着「起同必音」", ["起同必音"]),
        ("It's the code 'a3b9', isn't it", ["a3b9"]),
        ('The letters "X", "Y" and "Z"', ["XYZ"]),
        ('"' + "a" * 65 + '"', []),
    ],
)
def test_quoted_parts(text: str, quoted: list[str]):
    assert find_quoted(text) == quoted


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("a3b9", ["a3b9"]),
        ("The text is a3b9. Let me know", ["The text is a3b9", "Let me know"]),
        ("3 + 5 = 8, so it is 8", ["3 + 5 = 8", "so it is 8"]),
        ("答案是8,因为3+5=8。", ["答案是8", "因为3+5=8"]),
        ("1,234.5", ["1,234.5"]),
    ],
)
def test_clauses(text: str, clauses: list[str]):
    assert split_clauses(text) == clauses


@pytest.mark.parametrize("text", ["text", "Captcha", "is", "验证码"])
def test_filler_word(text: str):
    assert is_filler_word(text)


@pytest.mark.parametrize("text", ["", "a", "i", "a3b9", "the text"])
def test_no_filler_word(text: str):
    assert not is_filler_word(text)
