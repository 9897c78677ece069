from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from qwen_captcha.settings import (
    PASSED_THROUGH,
    VARIABLES,
    Settings,
    SettingsError,
    load_settings,
    settings_from_environment,
)
from qwen_captcha.value_parsers import Secret

KEY = "a-key-of-16-chars"
PACKAGE = Path(__file__).resolve().parents[1] / "qwen_captcha"


def test_defaults_are_the_documented_ones() -> None:
    settings = load_settings({})
    assert settings == Settings(
        qwen_model="",
        qwen_backend="auto",
        openai_base_url="",
        openai_api_key=Secret(),
        openai_server="auto",
        openai_concurrency=16,
        qwen_cascade="",
        cascade_below=0.5,
        use_gpu=True,
        min_pixels=64_000,
        max_pixels=360_000,
        max_new_tokens=32,
        host="0.0.0.0",
        port=5000,
        http_threads=512,
        workers=1,
        api_keys=(),
        rate_limit_per_address="",
        rate_limit_per_key="",
        trusted_proxy_count=0,
        cors_origins=(),
        max_body_bytes=67_108_864,
        max_image_bytes=10_485_760,
        max_image_pixels=12_500_000,
        max_frames=100,
        max_batch_images=64,
        max_prompt_characters=2000,
        max_batch_size=32,
        max_queue_delay_ms=25.0,
        max_queue_size=128,
        ocr_timeout_s=8.0,
        batch_ocr_timeout_s=60.0,
        drain_timeout_s=30.0,
        cache_size=4096,
        cache_ttl_s=3600.0,
        collect_dir="",
        collect_max_images=10_000,
        collect_max_bytes=268_435_456,
        log_level="info",
        log_format="auto",
        log_answers=False,
    )


def test_the_table_has_every_field_once_and_no_variable_twice() -> None:
    assert [variable.field for variable in VARIABLES] == [
        field.name for field in dataclasses.fields(Settings)
    ]
    names = [name for variable in VARIABLES for name in variable.names] + list(PASSED_THROUGH)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.field)
def test_a_row_has_a_description(variable: object) -> None:
    assert variable.help.endswith(".")
    assert variable.allowed
    assert variable.field.upper() == variable.names[0]


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"QWEN_MODEL": "Qwen/Qwen2-VL-7B-Instruct"}, "qwen_model", "Qwen/Qwen2-VL-7B-Instruct"),
        ({"QWEN_MODEL": ""}, "qwen_model", ""),
        ({"OPENAI_BASE_URL": "http://[::1]:80/v1/"}, "openai_base_url", "http://[::1]:80/v1"),
        ({"OPENAI_API_KEY": " sk-1 "}, "openai_api_key", Secret("sk-1")),
        ({"API_KEYS": f" {KEY} ,{KEY}2,"}, "api_keys", (Secret(KEY), Secret(f"{KEY}2"))),
        ({"RATE_LIMIT_PER_ADDRESS": "20/second"}, "rate_limit_per_address", "20/second"),
        (
            {"CORS_ORIGINS": "https://a.org, http://b:81"},
            "cors_origins",
            ("https://a.org", "http://b:81"),
        ),
        ({"HOST": "[::1]"}, "host", "::1"),
        ({"HOST": "localhost"}, "host", "localhost"),
        ({"USE_GPU": "false"}, "use_gpu", False),
        ({"USE_GPU": "0"}, "use_gpu", False),
        ({"USE_GPU": "No"}, "use_gpu", False),
        ({"USE_GPU": "OFF"}, "use_gpu", False),
        ({"USE_GPU": "TRUE"}, "use_gpu", True),
        ({"USE_GPU": "on"}, "use_gpu", True),
        ({"MIN_PIXELS": " 100352 "}, "min_pixels", 100_352),
        ({"MIN_PIXELS": "1000", "MAX_PIXELS": "1000"}, "max_pixels", 1000),
        ({"PORT": "8080"}, "port", 8080),
        ({"FLASK_RUN_PORT": "5001"}, "port", 5001),
        ({"PORT": "8080", "FLASK_RUN_PORT": "5001"}, "port", 8080),
        ({"PORT": " ", "FLASK_RUN_PORT": "5001"}, "port", 5001),
        ({"PORT": "0"}, "port", 0),
        ({"CACHE_SIZE": "0"}, "cache_size", 0),
        ({"OCR_TIMEOUT_S": "2.5"}, "ocr_timeout_s", 2.5),
        ({"MAX_QUEUE_DELAY_MS": "0"}, "max_queue_delay_ms", 0.0),
        ({"LOG_LEVEL": "DEBUG"}, "log_level", "debug"),
    ],
    ids=lambda value: str(value),
)
def test_a_value_is_parsed(environ: dict[str, str], field: str, value: object) -> None:
    assert getattr(load_settings(environ), field) == value


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"MIN_PIXELS": "abc"},
            "MIN_PIXELS=abc cannot be used: it must be a whole number from 784 to 100000000.",
        ),
        (
            {"USE_GPU": "maybe"},
            "USE_GPU=maybe cannot be used: it must be one of true, 1, yes, on, false, 0, no, off.",
        ),
        (
            {"MIN_PIXELS": "5000", "MAX_PIXELS": "4000"},
            "MIN_PIXELS=5000 cannot be used: it must be at most MAX_PIXELS=4000, "
            "because an image is resized to lie between the two.",
        ),
        (
            {"MAX_BATCH_IMAGES": "129"},
            "MAX_BATCH_IMAGES=129 cannot be used: it must be at most MAX_QUEUE_SIZE=128, "
            "because a whole batch must fit into the queue.",
        ),
        (
            {"HTTP_THREADS": "128"},
            "HTTP_THREADS=128 cannot be used: it must be more than MAX_QUEUE_SIZE=128, "
            "because each accepted image may hold a thread and /health needs one.",
        ),
        (
            {"LOG_LEVEL": "loud"},
            "LOG_LEVEL=loud cannot be used: it must be one of debug, info, warning, error.",
        ),
        (
            {"OCR_TIMEOUT_S": "nan"},
            "OCR_TIMEOUT_S=nan cannot be used: it must be a number from 0.1 to 3600.",
        ),
        (
            {"FLASK_RUN_PORT": "http"},
            "FLASK_RUN_PORT=http cannot be used: it must be a whole number from 0 to 65535.",
        ),
        (
            {"PORT": "5000", "FLASK_RUN_PORT": "http"},
            "FLASK_RUN_PORT=http cannot be used: it must be a whole number from 0 to 65535.",
        ),
        (
            {"OPENAI_API_KEY": "se\ncret"},
            "OPENAI_API_KEY=… cannot be used: it must be a text of visible ASCII characters.",
        ),
        (
            {"API_KEYS": f"{KEY},short"},
            "API_KEYS=… cannot be used: it must be keys of at least 16 visible ASCII characters, "
            "with commas between them.",
        ),
        (
            {"API_KEYS": " , "},
            "API_KEYS=… cannot be used: it must be keys of at least 16 visible ASCII characters, "
            "with commas between them.",
        ),
        ({"HOST": "a b"}, "HOST=a b cannot be used: it must be an address or a host name."),
        (
            {"RATE_LIMIT_PER_KEY": "5/minute"},
            "RATE_LIMIT_PER_KEY=5/minute cannot be used: it must come with API_KEYS, whose use it "
            "limits.",
        ),
        (
            {"QWEN_BACKEND": "openai"},
            "QWEN_BACKEND=openai cannot be used: it must come with OPENAI_BASE_URL, the address "
            "of the server, such as http://127.0.0.1:8000/v1.",
        ),
        (
            {"QWEN_CASCADE": "openai:big"},
            "QWEN_CASCADE=openai:big cannot be used: it must come with OPENAI_BASE_URL, the "
            "address of the server, and without QWEN_BACKEND=openai.",
        ),
        (
            {"QWEN_CASCADE": "bundled", "HTTP_THREADS": "256"},
            "HTTP_THREADS=256 cannot be used: it must be more than twice MAX_QUEUE_SIZE=128, "
            "because each accepted image may hold a thread and /health needs one.",
        ),
        (
            {"PORT": "1\n2"},
            "PORT='1\\n2' cannot be used: it must be a whole number from 0 to 65535.",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_value_that_cannot_be_used_is_named_in_one_line(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_settings(environ)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("OPENAI_BASE_URL", "127.0.0.1:8000"),
        ("OPENAI_BASE_URL", "ftp://host/v1"),
        ("OPENAI_BASE_URL", "http://me:key@host/v1"),
        ("OPENAI_BASE_URL", "http://host/v1?key=1"),
        ("OPENAI_BASE_URL", "http://host:99999/v1"),
        ("OPENAI_BASE_URL", "http:///v1"),
        ("RATE_LIMIT_PER_ADDRESS", "0/second"),
        ("RATE_LIMIT_PER_ADDRESS", "5/fortnight"),
        ("RATE_LIMIT_PER_ADDRESS", "5"),
        ("CORS_ORIGINS", "example.org"),
        ("CORS_ORIGINS", "https://example.org/page"),
        ("CORS_ORIGINS", "https://*.example.org"),
        ("CORS_ORIGINS", "https://a.org?"),
        ("CORS_ORIGINS", "https://a.org$"),
        ("HOST", "999.1.1.1"),
        ("HOST", "5000"),
        ("HOST", "[127.0.0.1"),
        ("TRUSTED_PROXY_COUNT", "17"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "5e3"),
        ("PORT", "5_000"),
        ("PORT", "５０００"),
        ("MAX_BATCH_SIZE", "0"),
        ("MAX_BATCH_SIZE", "9" * 5000),
        ("OCR_TIMEOUT_S", "inf"),
        ("OCR_TIMEOUT_S", "0"),
        ("OCR_TIMEOUT_S", "1_0"),
        ("OCR_TIMEOUT_S", "８"),
        ("DRAIN_TIMEOUT_S", "soon"),
        ("USE_GPU", "2"),
    ],
)
def test_invalid_values_are_rejected_in_a_short_line(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}=") as refusal:
        load_settings({name: text})
    assert len(str(refusal.value)) < 200


def test_a_secret_is_not_shown() -> None:
    shown = repr(load_settings({"OPENAI_API_KEY": "sk-1", "API_KEYS": KEY}))
    assert "sk-1" not in shown
    assert KEY not in shown


def test_the_process_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "5678")
    assert settings_from_environment().port == 5678


def test_nothing_else_in_the_package_reads_the_environment() -> None:
    readers = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if "os.environ" in path.read_text("utf-8") or "getenv" in path.read_text("utf-8")
    ]
    assert readers == ["settings.py"]
