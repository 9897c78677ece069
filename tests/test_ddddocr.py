from __future__ import annotations

import base64
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qwen_captcha import ddddocr as module
from qwen_captcha import service as service_module
from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT
from qwen_captcha.ddddocr import DdddOcr, image_file
from qwen_captcha.errors import InvalidBase64, InvalidOption, ModelLoadError, UnsupportedImageType
from qwen_captcha.recognition.options import Options, parse_options
from qwen_captcha.service import start_local_service
from qwen_captcha.settings import Settings
from tests.support.captchas import CAPTCHA
from tests.support.fake_backend import FakeBackend, image_bytes

IMAGE = image_bytes(120)


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[bool | None, Any]]:
    services: dict[bool | None, Any] = {}
    monkeypatch.setattr(module, "_services", services)
    yield services
    for service in services.values():
        service.begin_drain()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, backend: FakeBackend) -> list[Settings]:
    """Serve the fixture `backend`; returns the settings of each service that is started."""
    started: list[Settings] = []

    def create_backend(settings: Settings) -> FakeBackend:
        started.append(settings)
        return backend

    monkeypatch.setattr(service_module, "create_backend", create_backend)
    return started


def test_a_script_reads_with_another_import_line(started: list[Settings]) -> None:
    ocr = DdddOcr(beta=True, show_ad=False)
    assert ocr.classification(IMAGE) == "w120"
    assert ocr.classification(IMAGE, png_fix=True) == "w120"


def test_a_process_loads_one_model_for_all_instances(started: list[Settings]) -> None:
    threads = [threading.Thread(target=DdddOcr) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1


def test_an_argument_replaces_the_setting_use_gpu(started: list[Settings]) -> None:
    for use_gpu in (None, False, True):
        DdddOcr(use_gpu=use_gpu)
    assert [settings.use_gpu for settings in started] == [True, False, True]


@pytest.mark.parametrize(
    "arguments",
    [{"det": True}, {"ocr": False}, {"import_onnx_path": "x.onnx", "charsets_path": "x.json"}],
    ids=["detection", "sliders", "a model of ddddocr's"],
)
def test_arguments_without_text_recognition_are_rejected(
    started: list[Settings], arguments: dict[str, Any]
) -> None:
    with pytest.raises(NotImplementedError):
        DdddOcr(**arguments)
    assert started == []


def test_the_documented_loop_over_probabilities_gives_the_text(started: list[Settings]) -> None:
    result: Any = DdddOcr().classification(IMAGE, probability=True)
    text = ""
    for row in result["probability"]:
        text += result["charsets"][row.index(max(row))]
    assert (text, result["text"], result["confidence"]) == ("w120", "w120", 0.778801)


@pytest.mark.parametrize(
    ("charset_range", "option"),
    [
        (0, {"charset_range": 0}),
        (6, {"charset_range": 6}),
        ("ba", {"charset": "ab"}),
        ("0", {"charset": "0"}),
        (["a", "b"], {"charset": "ab"}),
    ],
)
def test_a_range_belongs_to_its_instance(
    started: list[Settings], charset_range: Any, option: dict[str, object]
) -> None:
    restricted, free = DdddOcr(), DdddOcr()
    restricted.set_ranges(charset_range)
    asked: list[Options] = []
    recognize = restricted._service.recognize

    def record(data: bytes, options: Any, deadline: float) -> Any:
        asked.append(options)
        return recognize(data, options, deadline)

    restricted._service.recognize = record
    for ocr in (restricted, free):
        ocr.classification(IMAGE)
    assert asked == [parse_options(option), Options()]


def test_a_number_that_is_no_range_is_rejected(started: list[Settings]) -> None:
    with pytest.raises(InvalidOption, match="charset_range"):
        DdddOcr().set_ranges(99)


@pytest.mark.parametrize(
    "asked",
    [
        {"color_filter_colors": ["red"]},
        {"color_filter_custom_ranges": [((0, 50, 50), (10, 255, 255))]},
        {"colors": ["own"], "custom_color_ranges": {"own": [(0, 50, 50), (10, 255, 255)]}},
    ],
    ids=["names", "ranges", "as in 1.5"],
)
def test_characters_of_some_colors_are_read(
    started: list[Settings], backend: FakeBackend, asked: dict[str, Any]
) -> None:
    picture = Image.new("RGB", (120, 40), "white")
    picture.paste("red", (10, 10, 30, 30))
    picture.paste("blue", (60, 10, 80, 30))
    assert DdddOcr().classification(picture, **asked) == "w120"
    shown = backend.batches[-1][0].image
    assert {color for _, color in shown.getcolors()} == {(255, 255, 255), (255, 0, 0)}


def test_no_character_of_the_colors_is_an_empty_text(started: list[Settings]) -> None:
    assert DdddOcr().classification(IMAGE, colors=["green"]) == ""


def test_an_unknown_color_is_rejected(started: list[Settings]) -> None:
    with pytest.raises(InvalidOption, match="brown"):
        DdddOcr().classification(IMAGE, colors=["brown"])


def test_no_usable_answer_is_an_empty_text(started: list[Settings], backend: FakeBackend) -> None:
    backend.respond = lambda task: "5/0"
    assert DdddOcr().classification(IMAGE) == ""


def test_data_that_is_no_image_is_an_error(started: list[Settings]) -> None:
    with pytest.raises(UnsupportedImageType):
        DdddOcr().classification(b"this is a text")


def test_every_kind_of_image_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "captcha.png"
    path.write_bytes(IMAGE)
    text = base64.b64encode(IMAGE).decode()
    for kind in (IMAGE, path, str(path), text, f"data:image/png;base64,{text}", text + "\n"):
        assert image_file(kind) == IMAGE
    picture = Image.new("RGB", (30, 20), "red")
    assert image_file(picture) == image_file(np.asarray(picture))
    assert image_file(picture).startswith(b"\x89PNG")


def test_base64_without_a_slash_for_longer_than_a_path_can_be_is_no_path() -> None:
    data = IMAGE + bytes(300)  # a run of As
    assert image_file(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("mode", ["1", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "F", "I", "PA"])
def test_a_picture_of_any_mode_is_taken(mode: str) -> None:
    assert image_file(Image.new(mode, (30, 20))).startswith(b"\x89PNG")


def test_an_array_with_one_channel_is_grey() -> None:
    grey = np.arange(600, dtype=np.uint8).reshape(20, 30)
    assert image_file(grey[:, :, None]) == image_file(grey)


def test_an_argument_that_is_no_image_is_an_error() -> None:
    with pytest.raises(InvalidBase64):
        image_file("no-such-file.png")
    with pytest.raises(FileNotFoundError):
        image_file(Path("no-such-file.png"))
    with pytest.raises(TypeError, match="int"):
        image_file(5)
    with pytest.raises(TypeError, match=r"array \(2, 3, 7\) of uint8"):
        image_file(np.zeros((2, 3, 7), np.uint8))


def test_a_model_that_cannot_be_loaded_is_an_error(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    broken = FakeBackend(load_error=ValueError("the weights are torn"))
    monkeypatch.setattr(service_module, "create_backend", lambda settings: broken)
    with pytest.raises(ModelLoadError, match="the weights are torn"):
        start_local_service(settings)


@pytest.mark.live
@pytest.mark.skipif(not BUNDLED_CHECKPOINT.is_dir(), reason="there is no bundled checkpoint yet")
def test_the_bundled_checkpoint_reads_what_the_service_reads(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setenv("QWEN_MODEL", "bundled")
    ocr = DdddOcr(use_gpu=False)
    deadline = ocr._service.monotonic() + 60
    answer = ocr._service.recognize(CAPTCHA, Options(), deadline)
    assert ocr.classification(CAPTCHA) == answer.text
    ocr.set_ranges("xyz")
    assert set(str(ocr.classification(CAPTCHA))) <= set("xyz")


@pytest.mark.live
def test_the_import_loads_no_web_framework() -> None:
    program = (
        "import sys, qwen_captcha.ddddocr\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'flask', 'werkzeug', 'gunicorn', 'torch'}))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"
