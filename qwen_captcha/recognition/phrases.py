"""Announcements, prose and refusals in model replies, in English and Chinese.

An announcement, such as `The captcha text is` or `验证码是：`, is a run of words from a closed
vocabulary that names a subject and ends with a verb or a colon, followed by other text. A code is
never removed: `a3b9` is not in the vocabulary, and a code such as `is` or `text` is the last word,
at which no announcement can end.

Up to eight Latin letters and digits without a space are never prose, a refusal or an announcement.
Every function is linear in its input.
"""

from __future__ import annotations

import re


def _words(*lines: str) -> frozenset[str]:
    """Return the words in some lines."""
    return frozenset(" ".join(lines).split())


_SUBJECTS = _words(
    "answer calculation captcha character characters code codes content contents digit digits",
    "equation expression i image it it's letter letters number numbers output picture problem",
    "response result sequence solution string sum symbols text texts transcription value word",
    "words",
    "验证码 驗證碼 图片 圖片 图像 图中 圖中 文字 文本 字符 字符串 字母 数字 數字 汉字 漢字",
    "内容 內容 答案 结果 結果 算式 表达式 等式",
)
_VERBS = _words(
    "are as be consists contain contains displays equals has is it's read reads say says see show",
    "shows spells was were",
)
_CHINESE_VERBS = _words("是 为 為 即")
_HEDGES = _words("likely probably possibly clearly simply")
_OTHERS = _words(
    "a all alphanumeric also am an and any appear appeared appearing appears arithmetic at based",
    "because below black blue blurred blurry but by calculate can cannot case certainly clear",
    "color colored compute contained containing correct could depicted difficult displayed",
    "displaying distorted does enter extracted final find follow following follows for from given",
    "great green hard have help helps here here's hope how if in know let let's lines lowercase",
    "made many math mathematical may me might much my no noisy not ocr of okay on only or please",
    "provided random readable red seems seen sensitive shall should shown sign so solve sorry",
    "sure than that the their there therefore these this thus to too type unclear unreadable up",
    "uppercase verification very visible wavy we what when where which white who why will with",
    "within would written you your",
    "这张 這張 这个 這個 这幅 该 該 此 图 圖 中 里 裡 内 上 下 面 的 所 所示 显示 顯示 写着 包含",
    "识别 識別 计算 計算 最终 最后 正确 应该 应 可以 可能 我 看到 以下 如下 因此 所以 请 输入",
    "根据 一个 出 到 了 答",
)
_WORDS = _SUBJECTS | _VERBS | _CHINESE_VERBS | _HEDGES | _OTHERS


def _any_chinese(words: frozenset[str]) -> str:
    """Return a regular expression for the Chinese ones among some words, the longest first."""
    return "|".join(sorted((w for w in words if not w.isascii()), key=len, reverse=True))


_FORMULA = r"\d++(?:\s*+[-+*/×÷xX=−]\s*+(?:\d++|\?))++(?:\s*+=)?(?!\w)"
# One word of an announcement, of either language, or a formula; and the sign after it. A dash
# before a bare number is its sign.
_WORD = re.compile(
    r"[\s,.!]*+"
    rf"(?:([A-Za-z]++(?:'[a-z]++)?)(?![A-Za-z0-9_])|({_any_chinese(_WORDS)})|({_FORMULA}))"
    r"[ \t]*+(:|=|[-–—]\s+(?!\d+\W*$))?"
)
_CLAUSE_END = re.compile(r"[.!?;,]\s+|[;,!?](?=[\u4e00-\u9fff])|。")
_CHINESE_CHARACTER = re.compile(r"[\u4e00-\u9fff]")
_SENTENCE_GOES_ON = re.compile(r"[.!;]\s+[^\W\d_]{2}|。.")
_QUOTED = re.compile(
    r""""([^"]{1,64})"|「([^「」]{1,64})」|『([^『』]{1,64})』|`([^`]{1,64})`"""
    r"|(?<!\w)'([^']{1,64})'(?!\w)"
)
_CHINESE_SUBJECT = re.compile(_any_chinese(_SUBJECTS))
# Chinese codes are shorter; a sentence that names its subject is not.
_MIN_CHINESE_PROSE = 6

_REFUSAL = re.compile(
    r"""
    i(?:'m|\ am)\ (?:\w+\ )?sorry\b | sorry\b[,.!]?\s+\S | (?:unfortunately|my\ apologies)\b,?\s+\S
    | i\ (?:can't|cannot|can\ not|couldn't|could\ not|won't|will\ not|don't|do\ not|apologi[sz]e)\b
    | i(?:'m|\ am)\ (?:unable|not\ able|not\ sure|afraid)\b
    | (?:unable|not\ able)\ to\b | as\ an?\ (?:\w+\ ){0,3}(?:ai|model|assistant)\b
    | n/a\W*$ | (?:unreadable|illegible|indecipherable|unintelligible|unrecognizable)\b
    | (?:很|非常|十分|实在)?(?:抱歉|对不起|對不起|不好意思)(?:[,。!\s]|$)
    | 识别失败 | 未能?(?:识别|检测)
    | 作为(?:一[个名款])?(?:ai|人工智能|大?型?语言模型|智能助手|助手)
    | (?:我们|我|目前|暂时|这张|这个|该|此|图片|图像|图中|验证码|文字|内容|中|里|的|太|模糊|了|,)*+
      (?:看不清|(?:无法|無法|不能|没法|没办法|难以)(?:直接|准确|清楚|为您|为你|帮您|帮你)?
      (?:识别|識別|辨认|辨識|看清|提供|帮助|协助|读取|确定|判断|回答|满足|查看|处理|解析|完成|破解))
    """,
    re.IGNORECASE | re.VERBOSE,
)


def find_announced(text: str) -> str | None:
    """Return the text after an announcement at the start of a line.

    Args:
        text: One line, folded, without markup.

    Returns:
        The rest of the line; empty if the line is only an announcement; None if it does not begin
        with one.
    """
    end = _last_alphanumeric(text)
    position, cut, subject, announces = 0, 0, False, False
    while word := _WORD.match(text, position):
        english, chinese, formula, sign = word.groups()
        name = (english or chinese or "").lower()
        if english and name not in _WORDS:
            break
        position = word.end()
        subject = subject or bool(formula) or name in _SUBJECTS
        # Neither a formula nor `a` and `I`, which may belong to a code with spaces.
        named = bool(chinese) or len(name) > 1
        leads_on = bool(sign) or _may_announce(name, again=cut > 0)
        announces = named and (sign == ":" or (subject and leads_on))
        if position > end:
            break
        cut = position if announces else cut
    if cut:
        return text[cut:]
    only_words = position > end and position > 0
    return "" if only_words and (announces or text.rstrip()[-1] in ":!,") else None


def _may_announce(name: str, *, again: bool) -> bool:
    """Return whether the answer may follow a word, once or `again` after another such word.

    Behind a first verb, Chinese words may be the code, and English ones lead on: `The image shows
    the text …`, `It is probably …`.
    """
    if again:
        return name.isascii() and name in _VERBS | _SUBJECTS | _HEDGES
    return name in _VERBS | _CHINESE_VERBS


def _last_alphanumeric(text: str) -> int:
    """Return the index of the last letter or digit, or -1."""
    return next((at for at in range(len(text) - 1, -1, -1) if text[at].isalnum()), -1)


def is_filler_word(text: str) -> bool:
    """Return whether a text is a single word of our vocabulary, longer than a letter."""
    return len(text) > 1 and text.lower() in _WORDS


def is_prose(text: str) -> bool:
    """Return whether a text is a sentence or part of one instead of a code.

    Two words of our vocabulary make prose, or five words of any, a double quote inside, or a
    second sentence. Single letters are no words: `a 3 i 9` is a code with spaces.
    """
    words = [word.strip(".,;:!?\"'()") for word in text.split()]
    if sum(map(is_filler_word, words)) >= 2:
        return True
    if sum(len(word) >= 3 and word.isalpha() and word.isascii() for word in words) >= 5:
        return True
    if len(text) >= _MIN_CHINESE_PROSE and _CHINESE_SUBJECT.search(text):
        return True
    if '"' in text or (_CHINESE_CHARACTER.search(text) and any(mark in text for mark in ",;!")):
        return True
    return _SENTENCE_GOES_ON.search(text) is not None


def is_refusal(text: str) -> bool:
    """Return whether a folded text begins with a refusal, such as `cannot` or `识别失败`."""
    return _REFUSAL.match(text.lstrip(" \t\n\"'*")) is not None


def split_clauses(text: str) -> list[str]:
    """Return the clauses of a line."""
    return [clause for clause in _CLAUSE_END.split(text) if clause.strip()]


def find_quoted(text: str) -> list[str]:
    """Return the quoted parts of a line, in order, each of at most 64 characters.

    Several single characters, as in `"a", "3" and "b"`, are one part.
    """
    parts = [next(part for part in match.groups() if part) for match in _QUOTED.finditer(text)]
    return ["".join(parts)] if parts and all(len(part) == 1 for part in parts) else parts
