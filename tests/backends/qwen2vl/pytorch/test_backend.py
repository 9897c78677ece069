from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import Qwen2VLForConditionalGeneration

from qwen_captcha.backends import hardware
from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend
from qwen_captcha.backends.qwen2vl.pytorch.placement import (
    CPU_SPARE_BYTES,
    GIB,
    Gpu,
    Precision,
)
from qwen_captcha.checkpoints import files as checkpoint_files
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.reading import Capabilities, GenerationRequest
from qwen_captcha.settings import load_settings
from tests.support.checkpoints import (
    noise_image,
    noise_images,
    write_small_checkpoint,
)
from tests.support.fake_hub import running_hub

pytestmark = pytest.mark.live

FACTS = {"follows_prompts": False, "answers_questions": False, "pixel_range": [6272, 15680]}
REPO_ID = "someone/qwen2-vl-tiny"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A general Qwen2-VL."""
    return write_small_checkpoint(tmp_path_factory.mktemp("general"))


@pytest.fixture(scope="module")
def specialist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-VL that states what it was trained on."""
    return write_small_checkpoint(tmp_path_factory.mktemp("specialist"), FACTS)


@pytest.fixture(autouse=True)
def _plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(hardware, "count_gpus", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def new_backend(checkpoint: Path | str, *, use_gpu: bool = False) -> PyTorchBackend:
    return PyTorchBackend(
        str(checkpoint),
        model_name="tiny",
        use_gpu=use_gpu,
        min_pixels=5 * 784,
        max_pixels=18 * 784,
    )


def read_one(backend: PyTorchBackend) -> str:
    [reading] = backend.read([GenerationRequest(noise_image(160, 60), "what is it?", 8)])
    assert reading.log_probability is not None
    assert reading.log_probability < 0
    return reading.raw_response


def test_a_checkpoint_is_checked_loaded_and_read(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = new_backend(checkpoint)
    assert (backend.model_name, backend.device, backend.gpu_available) == ("tiny", "cpu", False)
    backend.check()
    with caplog.at_level(logging.INFO):
        backend.load()
    assert backend.capabilities == Capabilities()
    readings = backend.read(
        [GenerationRequest(image, "what?", 8) for image in noise_images([(160, 60), (3, 3)])]
    )
    assert len(readings) == 2
    messages = "\n".join(caplog.messages)
    assert f"Loading tiny from {checkpoint}" in messages
    assert "GiB of weights in float32 on the device cpu" in messages
    assert "tiny is loaded after" in messages


def test_reading_before_loading_is_a_bug(checkpoint: Path) -> None:
    with pytest.raises(RuntimeError, match="not loaded"):
        read_one(new_backend(checkpoint))


def test_capabilities_come_from_the_checkpoint(specialist: Path) -> None:
    backend = new_backend(specialist)
    backend.load()
    assert backend.capabilities == Capabilities(follows_prompts=False, answers_questions=False)


def pixel_range(backend: PyTorchBackend, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Return the range that the processor is loaded with."""
    ranges: list[tuple[int, int]] = []
    load_processor = loading.load_processor

    def record(folder: Path, pixels: tuple[int, int]) -> object:
        processor = load_processor(folder, pixels)
        size = processor.image_processor.size
        ranges.append((size["shortest_edge"], size["longest_edge"]))
        assert processor.tokenizer.padding_side == "left"
        return processor

    monkeypatch.setattr(loading, "load_processor", record)
    backend.load()
    return ranges[0]


def test_the_settings_limit_the_pixels_of_an_image(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pixel_range(new_backend(checkpoint), monkeypatch) == (5 * 784, 18 * 784)


def test_a_pixel_range_of_the_checkpoint_wins_and_is_logged(
    specialist: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert pixel_range(new_backend(specialist), monkeypatch) == (6272, 15680)
    assert "MIN_PIXELS=3920 and MAX_PIXELS=14112 have no effect" in caplog.text


def test_the_log_has_no_warning_of_a_range_that_was_not_set(
    specialist: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings({})
    backend = PyTorchBackend(
        str(specialist),
        model_name="tiny",
        use_gpu=False,
        min_pixels=settings.min_pixels,
        max_pixels=settings.max_pixels,
    )
    with caplog.at_level(logging.INFO):
        assert pixel_range(backend, monkeypatch) == (6272, 15680)
    assert "PIXELS" not in caplog.text


def test_a_missing_checkpoint_fails_the_check_and_the_load() -> None:
    backend = new_backend("/no/such/folder")
    with pytest.raises(ModelLoadError, match="/no/such/folder is neither"):
        backend.check()
    with pytest.raises(ModelLoadError, match="/no/such/folder is neither"):
        backend.load()


@pytest.mark.parametrize("use_gpu", [False, True])
def test_the_check_reports_a_checkpoint_beyond_the_memory(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, use_gpu: bool
) -> None:
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 1000)
    with pytest.raises(ModelLoadError, match="of memory are free"):
        new_backend(checkpoint, use_gpu=use_gpu).check()


def test_with_a_gpu_the_main_memory_is_not_checked(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: 1000)
    monkeypatch.setattr(hardware, "count_gpus", lambda: 1)
    backend = new_backend(checkpoint, use_gpu=True)
    assert (backend.device, backend.gpu_available) == ("cuda", True)
    backend.check()


def test_a_gpu_is_not_used_where_the_setting_is_false(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "count_gpus", lambda: 1)
    monkeypatch.setattr(loading, "visible_gpus", lambda: [Gpu(80 * GIB, True)])
    backend = new_backend(checkpoint, use_gpu=False)
    assert (backend.device, backend.gpu_available) == ("cpu", True)
    backend.load()
    assert (backend.device, backend.gpu_available) == ("cpu", True)


def test_a_gpu_that_torch_cannot_use_counts_for_nothing(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "count_gpus", lambda: 1)
    backend = new_backend(checkpoint, use_gpu=True)
    assert backend.device == "cuda"
    backend.load()
    assert (backend.device, backend.gpu_available) == ("cpu", False)


@pytest.mark.parametrize(
    ("gpus", "placement"),
    [
        ([Gpu(80 * GIB, True)], {"device_map": {"": 0}, "dtype": torch.bfloat16}),
        ([Gpu(80 * GIB, False)], {"device_map": {"": 0}, "dtype": torch.float32}),
        (
            [Gpu(6 * GIB, True), Gpu(8 * GIB, True)],
            {
                "device_map": "auto",
                "max_memory": {0: 5 * GIB, 1: 7 * GIB},
                "dtype": torch.bfloat16,
            },
        ),
    ],
    ids=["one GPU", "one without bf16", "two GPUs"],
)
def test_weights_are_placed_by_the_plan(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpus: list[Gpu],
    placement: dict[str, object],
) -> None:
    asked: dict[str, object] = {}

    def from_pretrained(folder: Path, **options: object) -> None:
        asked.update(options)
        raise OSError("there is no GPU here")

    monkeypatch.setattr(loading, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "from_pretrained", from_pretrained)
    inspected = checkpoint_files.inspect_checkpoint(checkpoint, "large")
    large = checkpoint_files.CheckpointFiles(checkpoint, Weights(5_000_000_000), inspected.facts)
    if len(gpus) == 2:
        monkeypatch.setattr(checkpoint_files, "find_checkpoint", lambda name: large)
    backend = new_backend(checkpoint, use_gpu=True)
    with pytest.raises(ModelLoadError, match="there is no GPU here"):
        backend.load()
    assert backend.device == "cuda"
    assert {key: asked[key] for key in placement} == placement
    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False
    assert ("max_memory" in asked) == ("max_memory" in placement)


@pytest.mark.parametrize(
    ("flags", "precision"), [({"avx2"}, "float32"), ({"avx512_bf16"}, "bfloat16")]
)
def test_the_processor_decides_on_the_precision(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    flags: set[str],
    precision: str,
) -> None:
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset(flags))
    with caplog.at_level(logging.INFO):
        backend = new_backend(checkpoint)
        backend.load()
    assert f"weights in {Precision(precision)} on" in "\n".join(caplog.messages)
    read_one(backend)


def test_a_slow_precision_is_announced(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    weights = checkpoint_files.inspect_checkpoint(checkpoint, "tiny").weights
    too_little = weights.loaded_bytes(4) + CPU_SPARE_BYTES
    monkeypatch.setattr(hardware, "available_memory_bytes", lambda: too_little)
    with caplog.at_level(logging.WARNING):
        new_backend(checkpoint).load()
    assert "tiny does not fit the memory in float32, and this processor computes bfloat16" in (
        caplog.text
    )


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("a weight missing", r"lacks 1 weights, model\.visual\.merger\.ln_q\.weight"),
        ("no tokenizer", "cannot be loaded: "),
    ],
)
def test_a_checkpoint_that_does_not_work_is_rejected(
    checkpoint: Path, tmp_path: Path, damage: str, complaint: str
) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    if damage == "a weight missing":
        del weights["visual.merger.ln_q.weight"]
    else:
        (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=complaint):
        new_backend(folder).load()


def test_a_hub_name_is_downloaded_at_the_first_start(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    backend = new_backend(REPO_ID)
    with running_hub(REPO_ID, checkpoint) as hub, caplog.at_level(logging.INFO):
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        backend.check()
        assert "will be downloaded" in caplog.messages[-1]
        assert "model.safetensors" not in hub.served
        backend.load()
        assert "model.safetensors" in hub.served
    read_one(backend)
    # The second start finds everything here and asks no server.
    again = new_backend(REPO_ID)
    again.check()
    again.load()
    assert read_one(again) == read_one(backend)


def test_a_check_needs_no_torch(checkpoint: Path) -> None:
    program = (
        "import sys\n"
        "from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend\n"
        "options = dict(model_name='m', use_gpu=True, min_pixels=784, max_pixels=7840)\n"
        "backend = PyTorchBackend(sys.argv[1], **options)\n"
        "backend.check()\n"
        "print(backend.device, [m for m in ('torch', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(checkpoint)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split(maxsplit=1)[1] == "[]\n"
