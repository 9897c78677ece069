"""The JSON of a chat completion for one image: request and reply.

A reply of another shape raises EngineFailed: never another exception, and never an invented answer.
"""

from __future__ import annotations

import base64
import io
import math
import re
from typing import Any

from PIL import Image

from qwen_captcha.backends.openai.servers import ServerTraits
from qwen_captcha.errors import DEFAULT_RETRY_S, EngineFailed
from qwen_captcha.images.resize import size_shown, with_borders
from qwen_captcha.recognition.reading import (
    GenerationOutput,
    GenerationRequest,
    TokenLogprob,
)

# With a chat template without turns, the response of `transformers serve` has the prompt's tokens.
SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")
# zlib's fastest level: the server is on the same network, and a captcha is small.
PNG_COMPRESSION = 1


def chat_request(
    request: GenerationRequest, model: str, traits: ServerTraits, pixel_range: tuple[int, int]
) -> dict[str, object]:
    """Return the body of a request that reads one image.

    Args:
        request: The image, prompt and constraints.
        model: The name of the model on the server.
        traits: The extensions of the server.
        pixel_range: Minimum and maximum pixels at which the image is sent.
    """
    content = [
        {"type": "image_url", "image_url": {"url": image_address(request.image, pixel_range)}},
        {"type": "text", "text": request.prompt},
    ]
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": request.max_new_tokens,
        "temperature": 0.0,
        "frequency_penalty": 0.0,
        **traits.further_fields,
    }
    if traits.token_probabilities:
        body["logprobs"] = True
    if traits.constraint_fields is not None and request.constraints.restricts:
        body |= traits.constraint_fields(request.constraints)
    return body


def image_address(image: Image.Image, pixel_range: tuple[int, int]) -> str:
    """Return an image as a data URI, in a size that the model's processor does not change."""
    low, high = pixel_range
    shown = with_borders(image).resize(size_shown(image.size, min_pixels=low, max_pixels=high))
    file = io.BytesIO()
    shown.save(file, "PNG", compress_level=PNG_COMPRESSION)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def output_of(reply: dict[str, Any]) -> GenerationOutput:
    """Return the output of a model.

    Raises:
        EngineFailed: The reply is not a chat completion.
    """
    try:
        choice = reply["choices"][0]
        # Some servers send null for a response that is only the end token.
        raw_response = SPECIAL_TOKEN.sub("", _encodable(choice["message"]["content"] or ""))
        tokens = _tokens(choice.get("logprobs"))
        complete = choice.get("finish_reason") != "length"
    except (LookupError, TypeError, ValueError, AttributeError):
        raise EngineFailed(
            "The reply of the engine is not a chat completion.", retry_after_s=DEFAULT_RETRY_S
        ) from None
    if not tokens:
        return GenerationOutput(raw_response, None, complete)
    log_probability = sum(token.log_probability for token in tokens)
    return GenerationOutput(
        raw_response, log_probability, complete, _spelling(tokens, raw_response)
    )


def _encodable(text: str) -> str:
    """Return a text with `?` for each lone surrogate, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def _tokens(logprobs: Any) -> list[TokenLogprob]:
    """Return the tokens of a reply with their probabilities, empty where it has none."""
    tokens = []
    for entry in (logprobs or {}).get("content") or []:
        text, log_probability = entry["token"], float(entry["logprob"])
        if not isinstance(text, str) or not math.isfinite(log_probability):
            raise ValueError
        # Rounding makes some log-probabilities slightly positive.
        tokens.append(TokenLogprob(text, min(0.0, log_probability)))
    return tokens


def _spelling(tokens: list[TokenLogprob], raw_response: str) -> tuple[TokenLogprob, ...]:
    """Return the tokens if they spell the response, else none: some split a character."""
    *body, last = tokens
    text = "".join(token.text for token in body)
    if text + last.text == raw_response:
        return tuple(tokens)
    if text == raw_response:
        return (*body, TokenLogprob("", last.log_probability))
    return ()
