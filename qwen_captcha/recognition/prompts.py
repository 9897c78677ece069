"""The instructions for the model: one for captchas of any kind, one for each kind.

A prompt of the caller replaces them entirely. The model copies an expression without computing it,
because small models compute worse than they read.
"""

from __future__ import annotations

from qwen_captcha.recognition.options import Kind, Options

# Short: every token is prefill time. No example of a code: small models copy it as their answer.
DEFAULT_PROMPTS = {
    Kind.AUTO: (
        "Read this captcha and output only the result, without explanation. "
        "If it shows characters, output them exactly, from left to right, without spaces, keeping "
        "upper and lower case. "
        "If it shows an arithmetic expression, copy the expression without calculating. "
        "If it asks a question, output only the answer."
    ),
    Kind.TEXT: (
        "Read the characters in this captcha. Output only the characters, from left to right, "
        "without spaces, keeping upper and lower case."
    ),
    Kind.DIGITS: (
        "Read the digits in this captcha. Every character is a digit from 0 to 9. "
        "Output only the digits, from left to right, without spaces."
    ),
    Kind.CHINESE: (
        "Read the Chinese characters in this captcha. Output only the characters, from left to "
        "right, without spaces, translation or pinyin."
    ),
    Kind.MATH: (
        "Read the arithmetic expression in this captcha. Output only the expression exactly as "
        "drawn, with its operators. Do not calculate."
    ),
    Kind.QUESTION: (
        "Read the question in this captcha and answer it. Output only the answer, as short as "
        "possible, in the language of the question."
    ),
}


def prompt_for(options: Options) -> str:
    """Return the whole instruction for one image: the caller's, else the default for the kind."""
    return DEFAULT_PROMPTS[options.kind] if options.prompt is None else options.prompt
