"""Answers weighed against each other, their confidence and their details."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen_captcha.recognition.calibration import (
    CALIBRATION,
    Calibration,
    CalibrationError,
    Curve,
    Evidence,
    read_calibration,
)
from qwen_captcha.recognition.candidates import (
    Candidate,
    confidence_of,
    evidence_of,
    find_candidates,
    kind_of_answer,
)
from qwen_captcha.recognition.charsets import DIGITS
from qwen_captcha.recognition.details import details_of
from qwen_captcha.recognition.options import (
    Case,
    Kind,
    Options,
)
from qwen_captcha.recognition.plan import plan_recognition
from qwen_captcha.recognition.reading import (
    Capabilities,
    GenerationOutput,
    TokenLogprob,
)

BUNDLED = Capabilities(follows_prompts=False, answers_questions=False)
IDENTITY = Curve(bias=0.0, whole=1.0, weakest=0.0)


def reading(shares: dict[str, float]) -> GenerationOutput:
    """Return readings with their probabilities, the first one with the others beside it."""
    first, *others = [
        GenerationOutput(text, math.log(share), complete=True) for text, share in shares.items()
    ]
    return GenerationOutput(first.raw_response, first.log_probability, True, (), tuple(others))


def spelled(text: str, scores: list[float]) -> GenerationOutput:
    tokens = [TokenLogprob(part, score) for part, score in zip([*text, ""], scores, strict=True)]
    return GenerationOutput(text, sum(scores), True, tuple(tokens))


def candidates(read: GenerationOutput, **options: object) -> list[Candidate]:
    return find_candidates(read, plan_recognition(Options(**options), BUNDLED))


@pytest.mark.parametrize(
    ("shares", "options", "answers"),
    [
        ({"a3b9": 0.9}, {}, {"a3b9": 0.9}),
        ({"3+5=?": 0.4, "a3b9": 0.3, "3+5=": 0.2}, {}, {"8": 0.6, "a3b9": 0.3}),
        ({"a": 0.4, "b": 0.3, "B": 0.2}, {"case": Case.LOWER}, {"b": 0.5, "a": 0.4}),
        ({"a": 0.4, "b": 0.3, "B": 0.2}, {}, {"a": 0.4, "b": 0.3, "B": 0.2}),
        ({"5/0": 0.6, "5/5": 0.2}, {"kind": Kind.MATH}, {"1": 0.2}),
        ({"2+2=?": 0.5, "22": 0.1}, {"charset": DIGITS}, {"4": 0.5, "22": 0.1}),
        ({"2a": 0.5, "22": 0.1}, {"charset": DIGITS}, {"22": 0.1}),
        ({"2a": 0.5}, {"charset": DIGITS}, {"2a": 0.5}),
        ({"": 0.5}, {}, {}),
    ],
    ids=[
        "one reading",
        "expressions of one value",
        "letters in either case",
        "case kept",
        "no value",
        "arithmetic though a charset was asked for",
        "outside the charset",
        "an engine that obeys none",
        "nothing",
    ],
)
def test_readings_that_make_one_answer_add_up(
    shares: dict[str, float], options: dict[str, object], answers: dict[str, float]
) -> None:
    found = candidates(reading(shares), **options)
    masses = {c.extracted.text: math.exp(c.log_mass or 0.0) for c in found}
    assert list(masses) == list(answers)
    assert masses == pytest.approx(answers)


def test_without_probabilities_there_is_an_answer_of_unknown_confidence() -> None:
    [candidate] = candidates(GenerationOutput("a3b9", None, complete=True))
    assert candidate.extracted.text == "a3b9"
    assert evidence_of(candidate) is None
    assert confidence_of(candidate, None) == 0.0
    assert details_of([candidate], 0.0) == {"characters": [], "alternatives": []}


@pytest.mark.parametrize(
    ("log_probability", "confidence"),
    [(0.0, 1.0), (math.log(0.5), 0.5), (-1000.0, 0.0), (0.001, 1.0), (math.nan, 0.0)],
)
def test_uncalibrated_confidence_is_the_model_s_probability(
    log_probability: float, confidence: float
) -> None:
    [candidate] = candidates(GenerationOutput("a3b9", log_probability, complete=True))
    assert confidence_of(candidate, None) == pytest.approx(confidence, abs=1e-5)


def test_evidence_is_the_whole_and_the_weakest_token() -> None:
    [candidate] = candidates(spelled("a3", [-0.1, -0.4, -0.05]))
    assert evidence_of(candidate) == Evidence(pytest.approx(-0.55), -0.4)
    [summed] = candidates(reading({"3+5=?": 0.5, "3+5=": 0.4}))
    evidence = evidence_of(summed)
    assert evidence == Evidence(pytest.approx(math.log(0.9)), pytest.approx(math.log(0.9)))


@pytest.mark.parametrize(
    ("raw_response", "kind"),
    [("a3b9", "text"), ("0042", "digits"), ("天地", "chinese"), ("3+5=?", "math")],
)
def test_each_kind_of_answer_has_its_curve(raw_response: str, kind: str) -> None:
    [candidate] = candidates(reading({raw_response: 0.5}))
    assert kind_of_answer(candidate) == kind
    sure = Curve(bias=math.log(4), whole=0.0, weakest=0.0)
    assert confidence_of(candidate, Calibration(IDENTITY, {kind: sure})) == pytest.approx(0.8)
    assert confidence_of(candidate, Calibration(IDENTITY, {})) == pytest.approx(0.5)


slopes = st.floats(0, 5)


@given(
    st.builds(Curve, st.floats(-9, 9), slopes, slopes),
    st.lists(st.floats(-60, 0), min_size=2, max_size=5),
)
def test_confidence_is_a_probability_that_rises_with_the_model_s(
    curve: Curve, log_probabilities: list[float]
) -> None:
    values = [curve.probability(Evidence(p, p)) for p in sorted(log_probabilities)]
    assert all(0 <= value <= 1 for value in values)
    assert all(low <= high + 1e-12 for low, high in pairwise(values))


def test_a_calibration_is_read_as_it_was_written(tmp_path) -> None:
    calibration = Calibration(IDENTITY, {"math": Curve(-0.5, 0.25, 0.75)})
    assert read_calibration(tmp_path) is None
    calibration.write(tmp_path, {"images": 3})
    assert read_calibration(tmp_path) == calibration
    assert json.loads((tmp_path / CALIBRATION).read_text())["fitted_on"] == {"images": 3}


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        '{"default": {"bias": 0}, "kinds": {}}',
        '{"default": {"bias": 0, "whole": -1, "weakest": 0}, "kinds": {}}',
        '{"default": {"bias": NaN, "whole": 1, "weakest": 0}, "kinds": {}}',
    ],
    ids=["no JSON", "no object", "a number missing", "falling", "not finite"],
)
def test_a_malformed_calibration_is_rejected(tmp_path, content: str) -> None:
    (tmp_path / CALIBRATION).write_text(content)
    with pytest.raises(CalibrationError, match="is malformed"):
        read_calibration(tmp_path)


def test_characters_multiply_to_the_confidence() -> None:
    [candidate] = candidates(spelled("a3b", [-0.1, -0.4, 0.0, -0.1]))
    details = details_of([candidate], 0.5)
    characters = details["characters"]
    assert [character for character, _ in characters] == ["a", "3", "b"]
    assert characters[2][1] == 1.0
    end = 0.5 ** (0.1 / 0.6)
    assert math.prod(share for _, share in characters) * end == pytest.approx(0.5, abs=1e-3)


def test_alternatives_share_the_remaining_probability() -> None:
    found = candidates(reading({"a": 0.4, "b": 0.2, "c": 0.2}))
    assert details_of(found, 0.4)["alternatives"] == [
        {"text": "b", "confidence": 0.2},
        {"text": "c", "confidence": 0.2},
    ]
    # The model gave the others as much as the first: they cannot keep that beside 0.9.
    shared = details_of(found, 0.9)["alternatives"]
    assert [other["confidence"] for other in shared] == [0.05, 0.05]


def test_the_same_text_in_another_case_is_no_alternative() -> None:
    found = candidates(reading({"ab": 0.4, "Ab": 0.3, "cb": 0.2}))
    assert [other["text"] for other in details_of(found, 0.7)["alternatives"]] == ["cb"]


def test_details_stay_under_two_kilobytes() -> None:
    long = spelled("龥" * 200, [-0.001] * 201)
    others = tuple(GenerationOutput(chr(0x4E00 + n) * 32, -9.0, True) for n in range(9))
    first = GenerationOutput(long.raw_response, long.log_probability, True, long.tokens, others)
    details = details_of(candidates(first), 0.123456)
    assert len(details["alternatives"]) == 5
    assert len(json.dumps(details, ensure_ascii=False).encode()) < 2000
