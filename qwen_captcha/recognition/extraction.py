"""Extraction of the text to type from the reply of a model.

The answer is found among announcements, reasoning and refusals. Spaces in a code are removed,
arithmetic is computed, and the option `case` is applied. A bare code of letters, digits or Chinese
characters is returned unchanged. Every function is pure and linear in its input.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen_captcha.recognition.arithmetic.evaluate import (
    evaluate_expression,
    looks_like_arithmetic,
    with_signs,
)
from qwen_captcha.recognition.markup import (
    fold_forms,
    plain_lines,
    unquote,
)
from qwen_captcha.recognition.options import (
    Case,
    Kind,
    Options,
)
from qwen_captcha.recognition.phrases import (
    find_announced,
    find_quoted,
    is_filler_word,
    is_prose,
    is_refusal,
    split_clauses,
)

# A longer reply to our own prompts is a model that repeats itself without end.
MAX_REPLY_CHARACTERS = 4000
# Punctuation that ends a sentence and never a code.
_STOPS = ".。…,;、"
# Quotes within quotes: `"**a3b9**."` needs three rounds.
_MAX_WRAPPINGS = 4


@dataclass(frozen=True, slots=True)
class ExtractedAnswer:
    """The text to type.

    Attributes:
        text: Never empty.
        computed: The text is the value of an expression that was read.
    """

    text: str
    computed: bool = False


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A text that may be the answer.

    Attributes:
        text: The candidate, without quotes and full stop.
        explicit: The model announced it as the answer, or it is an expression to compute.
    """

    text: str
    explicit: bool


def extract_answer(
    raw_response: str, options: Options, *, answers_questions: bool
) -> ExtractedAnswer | None:
    """Return the answer in a model's reply, or None where there is no usable one.

    A reply to the caller's own prompt is only trimmed and unquoted. A reply to ours is cleaned,
    and computed where the kind is `math`, or `auto` and the text looks like arithmetic. Refusals,
    prose without a code, arithmetic without a value and replies over `MAX_REPLY_CHARACTERS` are no
    answers, and a model that cannot answer questions gives none to a question.

    Args:
        raw_response: The output of the model.
        options: The request's options, of which `prompt`, `kind` and `case` are used.
        answers_questions: Whether the model can answer a question instead of transcribing it.
    """
    folded = fold_forms(raw_response)
    if is_refusal(folded) or (options.kind is Kind.QUESTION and not answers_questions):
        return None
    if options.prompt is not None:
        text = _apply_case(unquote(raw_response.strip()), options.case)
        return ExtractedAnswer(text) if text else None
    if len(folded) > MAX_REPLY_CHARACTERS:
        return None
    may_compute = options.kind in (Kind.AUTO, Kind.MATH)
    lines = plain_lines(with_signs(folded) if may_compute else folded)
    text = _read_text(lines, options.kind)
    if is_refusal(text) or not _has_alphanumeric(text):
        return None
    if options.kind is Kind.MATH or (options.kind is Kind.AUTO and looks_like_arithmetic(text)):
        value = evaluate_expression(text)
        return None if value is None else ExtractedAnswer(str(value), computed=True)
    return ExtractedAnswer(_apply_case(text, options.case))


def _apply_case(text: str, case: Case) -> str:
    """Return a text in the case of the option."""
    if case is Case.KEEP:
        return text
    return text.lower() if case is Case.LOWER else text.upper()


def _read_text(lines: list[str], kind: Kind) -> str:
    """Return the answer in the lines of a reply, or an empty text.

    The last answer that the model announced is returned. Without one, the lines that are no prose
    are parts of one code, or answers to a question, of which the shortest is returned.
    """
    lines = [line for line in lines if find_announced(line) != ""]
    alone = kind is Kind.QUESTION or (len(lines) == 1 and len(split_clauses(lines[0])) == 1)
    candidates = [
        candidate for line in lines if (candidate := _find_candidate(line, kind, alone=alone))
    ]
    announced = [candidate.text for candidate in candidates if candidate.explicit]
    texts = announced[-1:] or _once([candidate.text for candidate in candidates])
    if kind is Kind.QUESTION:
        answer = min(texts, key=len) if texts else " ".join(lines)
        return " ".join(answer.split())
    return "".join("".join(texts).split())


def _once(texts: list[str]) -> list[str]:
    """Return one of several equal texts, which a model has repeated; single characters all stay."""
    repeated = len(set(texts)) == 1 and len(texts[0]) > 1
    return texts[:1] if repeated else texts


def _find_candidate(line: str, kind: Kind, *, alone: bool) -> _Candidate | None:
    """Return a possible answer in a line: the line, its announced part, or a quoted part.

    Args:
        line: One line without markup.
        kind: The kind of the captcha.
        alone: A filler word may be the answer: the line is the whole reply and one clause.
    """
    candidate = _strip_announcement(line, kind)
    if _is_answer(candidate.text, alone=alone):
        return candidate
    for quoted in reversed(find_quoted(line)):
        if _is_answer(quoted, alone=True):
            return _Candidate(_strip_wrapping(quoted), explicit=True)
    clauses = (_strip_announcement(clause, kind) for clause in reversed(split_clauses(line)))
    for clause in clauses:
        if clause.explicit and _is_answer(clause.text, alone=False):
            return clause
    return None


def _strip_announcement(line: str, kind: Kind) -> _Candidate:
    """Return a line or clause without its announcement, quotes and full stop."""
    announced = find_announced(line)
    text = _strip_wrapping(line if announced is None else announced)
    text = _join_list(_strip_wrapping(_strip_note(text)))
    computes = kind in (Kind.AUTO, Kind.MATH) and looks_like_arithmetic(text)
    explicit = announced is not None or (computes and evaluate_expression(text) is not None)
    return _Candidate(text, explicit)


def _is_answer(text: str, *, alone: bool) -> bool:
    """Return whether a text can be an answer: it has a letter or digit and is no prose."""
    if is_prose(text) or not _has_alphanumeric(text):
        return False
    return alone or not is_filler_word(text)


def _has_alphanumeric(text: str) -> bool:
    """Return whether a text has a letter, a digit or a Chinese character."""
    return any(character.isalnum() for character in text)


def _strip_wrapping(text: str) -> str:
    """Return a text without quotes, emphasis and full stops around it, in any nesting."""
    for _ in range(_MAX_WRAPPINGS):
        text = unquote(text.strip().rstrip(_STOPS).strip("`").rstrip(), marks=True)
    return text


def _strip_note(text: str) -> str:
    """Return a text without a note in words after it, such as `(all lowercase)`."""
    head, _, note = text.removesuffix(")").rpartition("(")
    is_note = text.endswith(")") and len(note) > 2 and not any(map(str.isdigit, note))
    return head if head.strip() and is_note else text


def _join_list(text: str) -> str:
    """Return the characters of a list such as `a, 3, b` as one text; any other text as it is."""
    parts = [part.strip() for part in text.replace("、", ",").split(",")]
    return "".join(parts) if all(len(part) == 1 for part in parts) else text
