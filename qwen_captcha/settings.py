"""Every setting of the service: its variable, default, allowed values and meaning.

The one table `VARIABLES` drives parsing, documentation and tests. Nothing else reads `os.environ`.
`broken_relation` finds settings that are fine alone but not together. Invariant: a `Settings` can
be used as it is, so that a mistake stops the start with one line and never a request.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qwen_captcha.value_parsers import (
    FALSE_WORDS,
    MIN_KEY_CHARACTERS,
    TRUE_WORDS,
    Secret,
    api_keys,
    boolean,
    decimal_number,
    listening_address,
    one_of,
    origins,
    rate,
    secret,
    web_address,
    whole_number,
)

BACKENDS = ("auto", "torch", "onnx", "openai")
# `auto` asks the server; `openai` is any that does what OpenAI documents and no more.
ENGINE_SERVERS = ("auto", "vllm", "sglang", "lmdeploy", "llama", "transformers", "openai")
RATES = "a number and a span such as 20/second, with second, minute, hour or day"
LOG_FORMATS = ("auto", "json", "text")
LOG_LEVELS = ("debug", "info", "warning", "error")
# Longest part of a refused value that the error line repeats.
MAX_QUOTED_CHARACTERS = 60

MIB = 1024 * 1024


class SettingsError(Exception):
    """A setting cannot be used; the message is the one line that a user reads."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The validated settings; `VARIABLES` says what each of them means."""

    qwen_model: str
    qwen_backend: str
    openai_base_url: str
    openai_api_key: Secret
    openai_server: str
    openai_concurrency: int
    qwen_cascade: str
    cascade_below: float
    use_gpu: bool
    min_pixels: int
    max_pixels: int
    max_new_tokens: int
    host: str
    port: int
    http_threads: int
    workers: int
    api_keys: tuple[Secret, ...]
    rate_limit_per_address: str
    rate_limit_per_key: str
    trusted_proxy_count: int
    cors_origins: tuple[str, ...]
    max_body_bytes: int
    max_image_bytes: int
    max_image_pixels: int
    max_frames: int
    max_batch_images: int
    max_prompt_characters: int
    max_batch_size: int
    max_queue_delay_ms: float
    max_queue_size: int
    ocr_timeout_s: float
    batch_ocr_timeout_s: float
    drain_timeout_s: float
    cache_size: int
    cache_ttl_s: float
    collect_dir: str
    collect_max_images: int
    collect_max_bytes: int
    log_level: str
    log_format: str
    log_answers: bool


@dataclass(frozen=True, slots=True)
class Variable:
    """One row of the settings table.

    Attributes:
        field: The attribute of `Settings`.
        names: The environment variables that set it; where several are set, the first wins.
        default: The value as one would write it into the environment.
        parse: Turns the text into the value; raises ValueError where it cannot.
        allowed: What is allowed, completing the sentence "it must be …".
        help: What the setting does, one sentence.
        hidden: Its value is never shown.
    """

    field: str
    names: tuple[str, ...]
    default: str
    parse: Callable[[str], object]
    allowed: str
    help: str
    hidden: bool = False


def _whole_number(
    field: str, names: str, default: int, low: int, high: int, help_text: str
) -> Variable:
    """Return the row of a setting that is a whole number in a range."""
    allowed = f"a whole number from {low} to {high}"
    return Variable(
        field, tuple(names.split()), str(default), whole_number(low, high), allowed, help_text
    )


def _decimal_number(
    field: str, names: str, default: float, low: float, high: float, help_text: str
) -> Variable:
    """Return the row of a setting that is a decimal number in a range."""
    allowed = f"a number from {low:.10g} to {high:.10g}"
    return Variable(
        field, tuple(names.split()), f"{default:g}", decimal_number(low, high), allowed, help_text
    )


# fmt: off
VARIABLES: tuple[Variable, ...] = (
    Variable("qwen_model", ("QWEN_MODEL",), "", str, "a hub name, a folder or `bundled`",
        "Model to serve; empty: Qwen/Qwen2-VL-2B-Instruct if it is complete in the local cache, "
        "else the bundled checkpoint."),
    Variable("qwen_backend", ("QWEN_BACKEND",), "auto", one_of(BACKENDS),
        f"one of {', '.join(BACKENDS)}",
        "What runs the model: PyTorch or ONNX Runtime in this process, or a server that speaks "
        "OpenAI's protocol; auto: ONNX Runtime for a checkpoint that has graphs for it, such as "
        "the bundled one, unless PyTorch finds a GPU, and PyTorch for all others."),
    Variable("openai_base_url", ("OPENAI_BASE_URL",), "", web_address,
        "an http or https address without user name and query",
        "Address of that server, with the path before /chat/completions: http://host:8000/v1."),
    Variable("openai_api_key", ("OPENAI_API_KEY",), "", secret,
        "a text of visible ASCII characters",
        "Key that is sent to that server; never logged.", hidden=True),
    Variable("openai_server", ("OPENAI_SERVER",), "auto", one_of(ENGINE_SERVERS),
        f"one of {', '.join(ENGINE_SERVERS)}",
        "Which server it is, because they differ in what they take beyond OpenAI's protocol; "
        "auto asks it."),
    _whole_number("openai_concurrency", "OPENAI_CONCURRENCY", 16, 1, 1024,
        "Most images that are with that server at once."),
    Variable("qwen_cascade", ("QWEN_CASCADE",), "", str,
        "a hub name, a folder, `openai`, `openai:NAME` or `ppocr`",
        "Second reader, for the images that the first one is not sure of; openai is the server at "
        "OPENAI_BASE_URL, with the name of its model where it lists several; empty: none."),
    _decimal_number("cascade_below", "CASCADE_BELOW", 0.5, 0, 1,
        "Answers with a confidence below this are passed on to the second reader."),
    Variable("use_gpu", ("USE_GPU",), "true", boolean,
        f"one of {', '.join(TRUE_WORDS + FALSE_WORDS)}",
        "Use CUDA when there is one; false forces the CPU."),
    _whole_number("min_pixels", "MIN_PIXELS", 64_000, 784, 100_000_000,
        "Smaller images are enlarged to this many pixels before the model sees them."),
    _whole_number("max_pixels", "MAX_PIXELS", 360_000, 784, 100_000_000,
        "Larger images are reduced to this many pixels before the model sees them."),
    # A 2B model on two CPU cores needs 0.24 s a token: 32 stay within a request's deadline.
    _whole_number("max_new_tokens", "MAX_NEW_TOKENS", 32, 1, 4096,
        "Longest response of the model, in tokens."),
    Variable("host", ("HOST",), "0.0.0.0", listening_address, "an address or a host name",
        "Address to listen on."),
    _whole_number("port", "PORT FLASK_RUN_PORT", 5000, 0, 65_535,
        "Port to listen on; 0 takes a free one, which the log names. PORT wins over the other."),
    # One for each admitted image, and for each caller who sends slowly. What is not needed is not
    # started.
    _whole_number("http_threads", "HTTP_THREADS", 512, 2, 4096,
        "Most threads that serve HTTP; more than MAX_QUEUE_SIZE, so that /health is never starved. "
        "One is held by each request that is read or answered, slow uploads too."),
    _whole_number("workers", "WORKERS", 1, 1, 256,
        "Processes that each hold the model once, with an equal share of the cores, a queue and "
        "a cache of their own; for the CPU only."),
    Variable("api_keys", ("API_KEYS",), "", api_keys,
        f"keys of at least {MIN_KEY_CHARACTERS} visible ASCII characters, with commas between them",
        "Keys, one of which a request must have as `Authorization: Bearer` or `X-API-Key`; empty: "
        "none is needed. Probes and pages need none.", hidden=True),
    Variable("rate_limit_per_address", ("RATE_LIMIT_PER_ADDRESS",), "", rate, RATES,
        "Most requests from one address (of IPv6 one /64), counted by each worker; empty: any."),
    Variable("rate_limit_per_key", ("RATE_LIMIT_PER_KEY",), "", rate, RATES,
        "Most requests with one of API_KEYS, counted by each worker; empty: any."),
    _whole_number("trusted_proxy_count", "TRUSTED_PROXY_COUNT", 0, 0, 16,
        "Proxies in front whose X-Forwarded-For is believed, 1 behind deploy/nginx.conf; with 0 "
        "the address is that of the connection."),
    Variable("cors_origins", ("CORS_ORIGINS",), "", origins,
        "origins such as https://example.org with commas between them, or *",
        "Origins whose pages may call from a browser; empty: none but this service's own."),
    # nginx: client_max_body_size must match.
    _whole_number("max_body_bytes", "MAX_BODY_BYTES", 64 * MIB, 1024, 1024 * MIB,
        "Largest request body in bytes."),
    _whole_number("max_image_bytes", "MAX_IMAGE_BYTES", 10 * MIB, 1024, 1024 * MIB,
        "Largest image file in bytes."),
    # A phone's photograph passes; 128 of them decoded in the queue are 4.8 GB.
    _whole_number("max_image_pixels", "MAX_IMAGE_PIXELS", 12_500_000, 784, 1_000_000_000,
        "Largest image in pixels, counted before it is decoded."),
    _whole_number("max_frames", "MAX_FRAMES", 100, 1, 10_000,
        "Longest animation in frames."),
    _whole_number("max_batch_images", "MAX_BATCH_IMAGES", 64, 1, 4096,
        "Most images in one /batch-ocr request; at most MAX_QUEUE_SIZE."),
    _whole_number("max_prompt_characters", "MAX_PROMPT_CHARACTERS", 2000, 1, 2000,
        "Longest prompt of a caller, in characters."),
    # A larger batch asks for the interpreter less often, which counts when many ask for it.
    _whole_number("max_batch_size", "MAX_BATCH_SIZE", 32, 1, 1024,
        "Most images that share one forward pass of the model."),
    # The 32 images of a batch are decoded in about 10 ms.
    _decimal_number("max_queue_delay_ms", "MAX_QUEUE_DELAY_MS", 25, 0, 1000,
        "Longest wait for images that are still being decoded, to share a forward pass with; "
        "a request that is alone never waits."),
    _whole_number("max_queue_size", "MAX_QUEUE_SIZE", 128, 1, 4095,
        "Most images that are accepted and not yet answered; further ones are refused."),
    # The Go client gives up after 10 s.
    _decimal_number("ocr_timeout_s", "OCR_TIMEOUT_S", 8, 0.1, 3600,
        "Seconds after which an /ocr request is answered with 504."),
    _decimal_number("batch_ocr_timeout_s", "BATCH_OCR_TIMEOUT_S", 60, 0.1, 3600,
        "Seconds after which the unread images of a /batch-ocr request fail."),
    _decimal_number("drain_timeout_s", "DRAIN_TIMEOUT_S", 30, 1, 3600,
        "Seconds that accepted requests have to finish after SIGTERM."),
    _whole_number("cache_size", "CACHE_SIZE", 4096, 0, 10_000_000,
        "Most answers kept; 0 switches the cache and the sharing of identical requests off."),
    _decimal_number("cache_ttl_s", "CACHE_TTL_S", 3600, 0.001, 31_536_000,
        "Seconds after which a kept answer expires."),
    Variable("collect_dir", ("COLLECT_DIR",), "", str, "a folder",
        "Folder in which images are kept with their answers, to train on; empty: none is kept."),
    _whole_number("collect_max_images", "COLLECT_MAX_IMAGES", 10_000, 1, 10_000_000,
        "Maximum number of images in COLLECT_DIR; the oldest without a label make room."),
    _whole_number("collect_max_bytes", "COLLECT_MAX_BYTES", 256 * MIB, MIB, 1024 * 1024 * MIB,
        "Maximum bytes of images and database in COLLECT_DIR."),
    Variable("log_level", ("LOG_LEVEL",), "info", one_of(LOG_LEVELS),
        f"one of {', '.join(LOG_LEVELS)}", "Least severe messages that are logged."),
    Variable("log_format", ("LOG_FORMAT",), "auto", one_of(LOG_FORMATS),
        f"one of {', '.join(LOG_FORMATS)}",
        "Look of the log's lines; auto is text in a terminal, else one JSON object a line."),
    Variable("log_answers", ("LOG_ANSWERS",), "false", boolean,
        f"one of {', '.join(TRUE_WORDS + FALSE_WORDS)}",
        "Log what each captcha was read as; images are never logged."),
)
# fmt: on

# Read by huggingface_hub itself; listed for the documentation.
PASSED_THROUGH: Mapping[str, str] = {
    "HF_HOME": "Folder of the model cache; read by huggingface_hub.",
    "HF_ENDPOINT": "Address of a mirror of the model hub; read by huggingface_hub.",
}


def settings_from_environment() -> Settings:
    """Return the settings that this process was started with.

    Raises:
        SettingsError: A variable has a value that cannot be used.
    """
    return load_settings(os.environ)


def set_variables(variables: Mapping[str, str]) -> None:
    """Set variables of this process, and of those that it starts or becomes."""
    os.environ.update(variables)


def set_unset_variables(variables: Mapping[str, str]) -> None:
    """Set those variables of this process that are not set."""
    os.environ.update({**variables, **os.environ})


def openmp_threads() -> int | None:
    """Return the number of threads that OMP_NUM_THREADS asks for, None where it asks for none."""
    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdecimal() and int(text) > 0 else None


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Parse and validate the settings.

    A variable that is empty or blank counts as not set, because compose files pass on what is
    not set as an empty text.

    Raises:
        SettingsError: Naming the variable, its value and what is allowed.
    """
    values = {variable.field: _value(variable, environ) for variable in VARIABLES}
    settings = Settings(**values)  # type: ignore[arg-type]
    if (refusal := broken_relation(settings)) is not None:
        raise SettingsError(refusal)
    return settings


def _value(variable: Variable, environ: Mapping[str, str]) -> object:
    """Return the value of one setting: from its first variable that is set, or the default."""
    given = [(name, text) for name in variable.names if (text := environ.get(name, "").strip())]
    if not given:
        return variable.parse(variable.default)
    # All are parsed, so that nonsense in one that loses does not go unnoticed.
    winner, *_ = [_parsed(variable, name, text) for name, text in given]
    return winner


def _parsed(variable: Variable, name: str, text: str) -> object:
    """Return the value of one variable that is set."""
    try:
        return variable.parse(text)
    except ValueError:
        quoted = text if text.isprintable() else repr(text)
        if variable.hidden:
            quoted = "…"
        if len(quoted) > MAX_QUOTED_CHARACTERS:
            quoted = quoted[:MAX_QUOTED_CHARACTERS] + "…"
        raise SettingsError(
            f"{name}={quoted} cannot be used: it must be {variable.allowed}."
        ) from None


def broken_relation(settings: Settings) -> str | None:
    """Return the line that refuses the settings, None where they fit together."""
    for low, high, why in (
        ("min_pixels", "max_pixels", "an image is resized to lie between the two"),
        ("max_batch_images", "max_queue_size", "a whole batch must fit into the queue"),
        ("max_image_bytes", "max_body_bytes", "an image must fit into a request"),
    ):
        if getattr(settings, low) > getattr(settings, high):
            return _relation(settings, low, f"at most {_shown(settings, high)}", why)
    queues = 2 if settings.qwen_cascade else 1
    if settings.http_threads <= queues * settings.max_queue_size:
        twice = "twice " if settings.qwen_cascade else ""
        return _relation(
            settings,
            "http_threads",
            f"more than {twice}{_shown(settings, 'max_queue_size')}",
            "each accepted image may hold a thread and /health needs one",
        )
    return _missing_companion(settings)


def _missing_companion(settings: Settings) -> str | None:
    """Return the line about a setting that is of no use without another one."""
    if settings.qwen_backend == "openai" and not settings.openai_base_url:
        return (
            "QWEN_BACKEND=openai cannot be used: it must come with OPENAI_BASE_URL, the address "
            "of the server, such as http://127.0.0.1:8000/v1."
        )
    asks_server = settings.qwen_cascade.partition(":")[0] == "openai"
    if asks_server and (settings.qwen_backend == "openai" or not settings.openai_base_url):
        return (
            f"{_shown(settings, 'qwen_cascade')} cannot be used: it must come with "
            "OPENAI_BASE_URL, the address of the server, and without QWEN_BACKEND=openai."
        )
    if settings.rate_limit_per_key and not settings.api_keys:
        return (
            f"{_shown(settings, 'rate_limit_per_key')} cannot be used: it must come with API_KEYS, "
            "whose use it limits."
        )
    return None


def _shown(settings: Settings, field: str) -> str:
    """Return a setting as one would write it into the environment."""
    return f"{field.upper()}={getattr(settings, field)}"


def _relation(settings: Settings, field: str, allowed: str, why: str) -> str:
    """Return the line that refuses a setting because of another one."""
    return f"{_shown(settings, field)} cannot be used: it must be {allowed}, because {why}."
