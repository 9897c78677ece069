from __future__ import annotations

import pytest

from qwen_captcha.fitting.checks import check_labels, check_pictures
from qwen_captcha.fitting.examples import Example
from qwen_captcha.recognition.answer import Answer
from tests.support.own_captchas import draw_text


def example(name: str, label: str, drawn: str = "", text: str = "") -> Example:
    return Example(name, draw_text(drawn or name), text or label, label)


def answer(text: str, confidence: float = 0.99, raw: str = "") -> Answer:
    return Answer(text, confidence, bool(text), raw or text)


def reasons(left_out: object) -> dict[str, str]:
    return {one.name: one.reason for one in left_out}  # type: ignore[attr-defined]


def test_a_duplicate_image_is_left_out() -> None:
    checked = check_pictures([example("1", "aaa", "x"), example("2", "aaa", "x")])
    assert [kept.name for kept in checked.examples] == ["1"]
    assert reasons(checked.left_out) == {"2": "the same as 1"}


def test_a_picture_with_two_labels_is_left_out_each_time() -> None:
    checked = check_pictures(
        [example("1", "aaa", "x"), example("2", "aab", "x"), example("3", "aab")]
    )
    assert [kept.name for kept in checked.examples] == ["3"]
    assert reasons(checked.left_out) == dict.fromkeys(
        "12", "one picture with different labels: 1, 2"
    )


def test_a_long_label_of_two_images_is_reported_and_used() -> None:
    checked = check_pictures([example("1", "abcd"), example("2", "abcd"), example("3", "7")])
    assert len(checked.examples) == 3
    assert checked.notes == ["label abcd has 2 different pictures: 1, 2"]


def test_a_label_of_unusual_length_is_left_out_unless_the_base_reads_the_same() -> None:
    usual = [example(str(number), "abcd") for number in range(28)]
    odd, agreed = example("odd", "abc"), example("agreed", "xyz")
    answers = [answer("", 0.0)] * 29 + [answer("xyz", 0.2)]
    checked = check_labels([*usual, odd, agreed], answers)
    assert reasons(checked.left_out) == {"odd": "label abc has 3 characters, others 4"}


@pytest.mark.parametrize("agreeing", [9, 3], ids=["it reads this folder", "it does not"])
def test_a_base_that_reads_the_folder_removes_wrong_labels(agreeing: int) -> None:
    """A base that is sure of wrong texts on a strange folder must not throw the labels away."""
    rows = [(example(str(n), f"x{n}"), answer(f"X{n}" if n < agreeing else "q")) for n in range(10)]
    checked = check_labels([row[0] for row in rows], [row[1] for row in rows])
    wrong = "label x9, but the base is sure of q"
    assert reasons(checked.left_out) == ({"9": wrong} if agreeing == 9 else {})


def test_a_base_with_low_confidence_removes_no_labels() -> None:
    rows = [(example(str(n), f"x{n}"), answer(f"x{n}")) for n in range(9)]
    rows.append((example("9", "x9"), answer("q", 0.6)))
    assert check_labels(*map(list, zip(*rows, strict=True))).left_out == []


def test_sums_are_learnt_from_as_they_are_drawn() -> None:
    given = example("given", "7", text="3+4=?")
    read, misread = example("read", "9"), example("misread", "5")
    answers = [answer("8", raw="3+5=?"), answer("9", raw="4 + 5 = ?"), answer("6", raw="1+5=?")]
    checked = check_labels([given, read, misread], answers)
    assert [(kept.name, kept.text) for kept in checked.examples] == [
        ("given", "3+4=?"),
        ("read", "4+5=?"),
    ]
    assert reasons(checked.left_out) == {
        "misread": "a sum without its expression (fourth column of labels.tsv)"
    }
