"""The settings of the service, each declared once: type, default, allowed values and meaning.

The fields of `Settings` drive parsing and the tables of the documentation. `load_settings` checks
each value alone and all of them together, so that a mistake ends the start with one line. Nothing
else reads `os.environ`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from qwen_captcha.value_parsers import (
    FALSE_WORDS,
    MIN_KEY_CHARACTERS,
    TRUE_WORDS,
    Secret,
    boolean,
    decimal_number,
    listening_address,
    one_of,
    origins,
    parse_api_keys,
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
# Maximum characters of a rejected value in the error line.
MAX_QUOTED_CHARACTERS = 60

MIB = 1024 * 1024


class SettingsError(Exception):
    """A setting cannot be used; the message is the one line that a user reads."""


T = TypeVar("T")


def setting(
    default: str,
    parse: Callable[[str], T],
    allowed: str,
    help: str,
    *,
    aliases: tuple[str, ...] = (),
    hidden: bool = False,
) -> T:
    """Declare a field of `Settings`; the arguments are those of `Variable`.

    Returns:
        A dataclass field. Its type is that of the parsed value, so that a checker compares it with
        the annotation.
    """
    declaration = {
        "default": default,
        "parse": parse,
        "allowed": allowed,
        "help": help,
        "aliases": aliases,
        "hidden": hidden,
    }
    return field(default=parse(default), metadata=declaration)


def whole(
    default: int, minimum: int, maximum: int, help: str, *, aliases: tuple[str, ...] = ()
) -> int:
    """Declare a setting that is a whole number in a range."""
    allowed = f"a whole number from {minimum} to {maximum}"
    parse = whole_number(minimum, maximum)
    return setting(str(default), parse, allowed, help, aliases=aliases)


def decimal(default: float, minimum: float, maximum: float, help: str) -> float:
    """Declare a setting that is a decimal number in a range."""
    allowed = f"a number from {minimum:.10g} to {maximum:.10g}"
    return setting(f"{default:g}", decimal_number(minimum, maximum), allowed, help)


def choice(choices: Sequence[str], help: str, *, default: str | None = None) -> str:
    """Declare a setting that is one of some words; without a default, the first one is it."""
    allowed = f"one of {', '.join(choices)}"
    return setting(default or choices[0], one_of(choices), allowed, help)


def flag(default: str, help: str) -> bool:
    """Declare a setting that is on or off."""
    return setting(default, boolean, f"one of {', '.join(TRUE_WORDS + FALSE_WORDS)}", help)


@dataclass(frozen=True, slots=True)
class Settings:
    """The validated settings, each with its default.

    The environment variable of a setting is its name in upper case.
    """

    qwen_model: str = setting(
        "",
        str,
        "a hub name, a folder or `bundled`",
        "Model to serve; empty: Qwen/Qwen2-VL-2B-Instruct if it is complete in the local cache, "
        "else the bundled checkpoint.",
    )
    qwen_backend: str = choice(
        BACKENDS,
        "Engine of the model: PyTorch or ONNX Runtime in this process, or a server with OpenAI's "
        "protocol; auto: ONNX Runtime for a checkpoint with graphs for it, such as the bundled "
        "one, unless PyTorch finds a GPU, and PyTorch for all others.",
    )
    openai_base_url: str = setting(
        "",
        web_address,
        "an http or https address without user name and query",
        "Address of that server, with the path before /chat/completions: http://host:8000/v1.",
    )
    openai_api_key: Secret = setting(
        "",
        secret,
        "a text of visible ASCII characters",
        "Key sent to that server; never logged.",
        hidden=True,
    )
    openai_server: str = choice(
        ENGINE_SERVERS,
        "Software of that server, because each accepts other extensions of OpenAI's protocol; "
        "auto asks the server.",
    )
    openai_concurrency: int = whole(16, 1, 1024, "Maximum concurrent requests to that server.")
    qwen_cascade: str = setting(
        "",
        str,
        "a hub name, a folder, `openai`, `openai:NAME` or `ppocr`",
        "Second reader, for images whose first answer has a low confidence; openai is the server "
        "at OPENAI_BASE_URL, with the name of its model where it lists several; empty: none.",
    )
    cascade_below: float = decimal(
        0.5, 0, 1, "Answers with a confidence below this value go to the second reader."
    )
    use_gpu: bool = flag("true", "Use CUDA if there is a GPU; false forces the CPU.")
    min_pixels: int = whole(
        64_000,
        784,
        100_000_000,
        "Minimum pixels of an image in front of the model; smaller images are enlarged.",
    )
    max_pixels: int = whole(
        360_000,
        784,
        100_000_000,
        "Maximum pixels of an image in front of the model; larger images are reduced.",
    )
    # A 2B model on two CPU cores needs 0.24 s a token: 32 stay within a request's deadline.
    max_new_tokens: int = whole(32, 1, 4096, "Maximum tokens in a response of the model.")
    host: str = setting(
        "0.0.0.0", listening_address, "an address or a host name", "Address to listen on."
    )
    port: int = whole(
        5000,
        0,
        65_535,
        "Port to listen on; 0 takes a free one and logs it. PORT takes precedence.",
        aliases=("FLASK_RUN_PORT",),
    )
    # One for each admitted image, and for each slow upload. Unneeded threads are not started.
    http_threads: int = whole(
        512,
        2,
        4096,
        "Maximum threads for HTTP, more than MAX_QUEUE_SIZE so that /health always has one. A "
        "request holds one while it is read or answered, a slow upload too.",
    )
    workers: int = whole(
        1,
        1,
        256,
        "Number of processes, each with the model, an equal share of the cores, and a queue and "
        "a cache of its own; for the CPU only.",
    )
    drain_timeout_s: float = decimal(
        30, 1, 3600, "Maximum seconds to finish accepted requests after SIGTERM."
    )
    api_keys: tuple[Secret, ...] = setting(
        "",
        parse_api_keys,
        f"keys of at least {MIN_KEY_CHARACTERS} visible ASCII characters, with commas between them",
        "Keys, one of which a request must send as `Authorization: Bearer` or `X-API-Key`; empty: "
        "no key is required. Probes and pages require none.",
        hidden=True,
    )
    rate_limit_per_address: str = setting(
        "",
        rate,
        RATES,
        "Maximum requests from one address (of IPv6 one /64), counted by each worker; empty: no "
        "limit.",
    )
    rate_limit_per_key: str = setting(
        "",
        rate,
        RATES,
        "Maximum requests with one of API_KEYS, counted by each worker; empty: no limit.",
    )
    trusted_proxy_count: int = whole(
        0,
        0,
        16,
        "Number of proxies in front whose X-Forwarded-For is trusted, 1 behind deploy/nginx.conf; "
        "with 0 the client's address is that of the connection.",
    )
    cors_origins: tuple[str, ...] = setting(
        "",
        origins,
        "origins such as https://example.org with commas between them, or *",
        "Origins whose pages may call from a browser; empty: only the service's own.",
    )
    # nginx: client_max_body_size must match.
    max_body_bytes: int = whole(
        64 * MIB, 1024, 1024 * MIB, "Maximum size of a request body in bytes."
    )
    max_image_bytes: int = whole(
        10 * MIB, 1024, 1024 * MIB, "Maximum size of an image file in bytes."
    )
    # A phone's photograph passes; 128 of them decoded in the queue are 4.8 GB.
    max_image_pixels: int = whole(
        12_500_000,
        784,
        1_000_000_000,
        "Maximum pixels of an image, checked before it is decoded.",
    )
    max_frames: int = whole(100, 1, 10_000, "Maximum frames of an animation.")
    max_batch_images: int = whole(
        64, 1, 4096, "Maximum images in one /batch-ocr request; at most MAX_QUEUE_SIZE."
    )
    max_prompt_characters: int = whole(
        2000, 1, 2000, "Maximum length of a request's prompt in characters."
    )
    # A larger batch asks for the interpreter less often, which counts when many ask for it.
    max_batch_size: int = whole(32, 1, 1024, "Maximum images in one forward pass of the model.")
    # The 32 images of a batch are decoded in about 10 ms.
    max_queue_delay_ms: float = decimal(
        25,
        0,
        1000,
        "Maximum wait for images that are still being decoded, to share a forward pass; a "
        "request that is alone never waits.",
    )
    max_queue_size: int = whole(
        128,
        1,
        4095,
        "Maximum images that are accepted and not yet answered; further ones are rejected.",
    )
    # The Go client gives up after 10 s.
    ocr_timeout_s: float = decimal(
        8, 0.1, 3600, "Deadline of an /ocr request in seconds; after it the reply is 504."
    )
    batch_ocr_timeout_s: float = decimal(
        60,
        0.1,
        3600,
        "Deadline of a /batch-ocr request in seconds; images that are unread by then fail.",
    )
    cache_size: int = whole(
        4096,
        0,
        10_000_000,
        "Maximum answers in the cache; 0 disables the cache and the sharing of identical requests.",
    )
    cache_ttl_s: float = decimal(
        3600, 0.001, 31_536_000, "Seconds after which a cached answer expires."
    )
    collect_dir: str = setting(
        "",
        str,
        "a folder",
        "Folder in which images are stored with their answers, to train on; empty: none is stored.",
    )
    collect_max_images: int = whole(
        10_000,
        1,
        10_000_000,
        "Maximum number of images in COLLECT_DIR; the oldest without a label are removed first.",
    )
    collect_max_bytes: int = whole(
        256 * MIB,
        MIB,
        1024 * 1024 * MIB,
        "Maximum bytes of images and database in COLLECT_DIR.",
    )
    log_level: str = choice(LOG_LEVELS, "Lowest severity that is logged.", default="info")
    log_format: str = choice(
        LOG_FORMATS, "Format of a log line; auto is text in a terminal, else one JSON object."
    )
    log_answers: bool = flag("false", "Log the text of each answer; images are never logged.")


@dataclass(frozen=True, slots=True)
class Variable:
    """The declaration of one setting.

    Attributes:
        field: The attribute of `Settings`.
        default: The value as one would write it into the environment.
        parse: Turns the text into the value; raises ValueError where it cannot.
        allowed: The allowed values, completing the sentence "it must be …".
        help: The effect of the setting, one or two sentences.
        aliases: Further environment variables that set it; the earlier one takes precedence.
        hidden: Its value is never shown.
    """

    field: str
    default: str
    parse: Callable[[str], object]
    allowed: str
    help: str
    aliases: tuple[str, ...]
    hidden: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The environment variables that set it, by precedence."""
        return (self.field.upper(), *self.aliases)


VARIABLES = tuple(Variable(declared.name, **declared.metadata) for declared in fields(Settings))

# Read by huggingface_hub itself; listed for the documentation: what is allowed, and the effect.
PASSED_THROUGH: Mapping[str, tuple[str, str]] = {
    "HF_HOME": ("a folder", "Folder of the model cache; read by huggingface_hub."),
    "HF_ENDPOINT": ("an address", "Address of a mirror of the model hub; read by huggingface_hub."),
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
    values: dict[str, Any] = {variable.field: _value(variable, environ) for variable in VARIABLES}
    settings = Settings(**values)
    if (problem := broken_relation(settings)) is not None:
        raise SettingsError(problem)
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
    """Return the error line of settings that exclude each other, None where there are none."""
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
    """Return the error line of a setting that requires another one, None where there is none."""
    if settings.qwen_backend == "openai" and not settings.openai_base_url:
        return (
            "QWEN_BACKEND=openai cannot be used: it must come with OPENAI_BASE_URL, the address "
            "of the server, such as http://127.0.0.1:8000/v1."
        )
    uses_server = settings.qwen_cascade.partition(":")[0] == "openai"
    if uses_server and (settings.qwen_backend == "openai" or not settings.openai_base_url):
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
    """Return the error line of a setting that another one excludes."""
    return f"{_shown(settings, field)} cannot be used: it must be {allowed}, because {why}."
