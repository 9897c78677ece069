"""The path of a user who has the published checkpoint: cache, hub name, no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
import torch
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from evaluation.published.layout import write_into_cache
from evaluation.published.vocabulary import Vocabulary
from qwen_captcha.backends import hardware
from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend
from qwen_captcha.checkpoints.files import is_complete_in_cache
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.charsets import (
    CHARSET_RANGES,
    DIGITS,
    Charset,
)
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Case
from qwen_captcha.recognition.reading import Capabilities, GenerationRequest
from tests.support.captchas import CAPTCHA
from tests.support.checkpoints import (
    SMALL_PUBLISHED_SHAPE,
    documented_inputs,
    noise_images,
    published_vocabulary,
)
from tests.support.live_server import (
    ENTRY_SCRIPT,
    MAX_WAIT_S,
    running,
)

pytestmark = pytest.mark.live

REPO_ID = "Qwen/Qwen2-VL-2B-Instruct"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SMALL = replace(SMALL_PUBLISHED_SHAPE, weight_spread=0.4)
PIXEL_RANGE = (10 * 784, 30 * 784)
PROMPT = "What is written in the image? 图中写了什么？"


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return published_vocabulary()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary) -> Path:
    """A Hugging Face home whose cache holds the checkpoint."""
    home = tmp_path_factory.mktemp("home")
    write_into_cache(home / "hub", REPO_ID, SMALL, vocabulary)
    return home


@pytest.fixture(scope="module")
def snapshot(home: Path) -> Path:
    [folder] = (home / "hub").glob("models--Qwen--Qwen2-VL-2B-Instruct/snapshots/*")
    return folder


@pytest.fixture
def _offline(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hardware, "cpu_flags", lambda: frozenset({"avx2"}))


@pytest.fixture
def half_downloaded(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home with a copy of the cache in which a shard is missing."""
    copy = tmp_path / "home"
    shutil.copytree(home, copy, copy_function=os.link)
    [shard] = copy.glob(f"hub/*/snapshots/*/{SHARDS[1]}")
    shard.unlink()
    return copy


def new_backend() -> PyTorchBackend:
    low, high = PIXEL_RANGE
    return PyTorchBackend(
        REPO_ID, model_name=REPO_ID, use_gpu=False, min_pixels=low, max_pixels=high
    )


def test_the_vocabulary_is_the_published_one(vocabulary: Vocabulary) -> None:
    assert (len(vocabulary.ids), len(vocabulary.merges)) == (151_643, 151_387)
    assert vocabulary.merges[:3] == [("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("i", "n")]
    assert vocabulary.special_ids["<|endoftext|>"] == 151_643
    assert vocabulary.special_ids["<|im_end|>"] == 151_645
    assert vocabulary.special_ids["<|image_pad|>"] == 151_655


def test_the_files_are_in_the_published_layout(snapshot: Path) -> None:
    config = json.loads((snapshot / "config.json").read_text(encoding="utf-8"))
    assert "text_config" not in config
    assert config["rope_scaling"] == {"type": "mrope", "mrope_section": [2, 1, 1]}
    names = []
    for shard in SHARDS:
        with safe_open(snapshot / shard, framework="pt") as file:
            names += list(file.keys())
    assert "visual.patch_embed.proj.weight" in names
    assert "model.embed_tokens.weight" in names
    assert not any(name.startswith(("lm_head", "model.visual", "model.lang")) for name in names)
    index = json.loads((snapshot / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert set(index["weight_map"].values()) == set(SHARDS)


@pytest.mark.usefixtures("_offline")
def test_every_weight_is_loaded_under_its_new_name(snapshot: Path) -> None:
    model, report = Qwen2VLForConditionalGeneration.from_pretrained(
        snapshot, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    loaded = model.state_dict()
    for shard in SHARDS:
        for old, weight in load_file(snapshot / shard).items():
            name = f"model.{old}" if old.startswith("visual.") else old
            name = name.replace("model.", "model.language_model.", 1) if name == old else name
            assert torch.equal(loaded[name], weight), name


@pytest.mark.usefixtures("_offline")
def test_the_hub_name_is_loaded_and_answers_as_greedy_generate(snapshot: Path) -> None:
    assert is_complete_in_cache(REPO_ID)
    backend = new_backend()
    backend.check()
    backend.load()
    assert backend.capabilities == Capabilities()
    images = noise_images([(160, 60), (100, 30), (60, 160)])
    readings = backend.read([GenerationRequest(image, PROMPT, 6) for image in images])
    model = Qwen2VLForConditionalGeneration.from_pretrained(snapshot, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(snapshot)
    low, high = PIXEL_RANGE
    processor.image_processor.size = {"shortest_edge": low, "longest_edge": high}
    assert model.generation_config.do_sample
    assert model.generation_config.repetition_penalty == 1.05
    expected = []
    for image in images:
        inputs = documented_inputs(processor, [image], PROMPT, PIXEL_RANGE)
        assert "You are a helpful assistant." in processor.decode(inputs["input_ids"][0])
        output = model.generate(**inputs, max_new_tokens=6, do_sample=False, repetition_penalty=1.0)
        answer = output[0, inputs["input_ids"].shape[1] :]
        expected.append(processor.decode(answer, skip_special_tokens=True))
    assert [reading.raw_response for reading in readings] == expected
    assert len(set(expected)) == len(images)


CONSTRAINTS = {
    "digits": DecodingConstraints(DIGITS, 1),
    "rare Chinese of several tokens": DecodingConstraints(Charset.of("龥鑫"), 2, 3),
    "letters and digits": DecodingConstraints(CHARSET_RANGES[6], 4, 6),
    "either case": DecodingConstraints(CHARSET_RANGES[4].in_either_case(), 1, 8, Case.LOWER),
}


@pytest.mark.usefixtures("_offline")
def test_constraints_hold_for_tokens_of_several_characters_and_of_parts() -> None:
    backend = new_backend()
    backend.load()
    tasks = [
        GenerationRequest(image, PROMPT, 12, constraints)
        for image, constraints in zip(
            noise_images([(160, 60), (100, 30), (90, 140), (160, 60)]),
            CONSTRAINTS.values(),
            strict=True,
        )
    ]
    for task, reading in zip(tasks, backend.read(tasks), strict=True):
        assert task.constraints.allows(reading.raw_response) or not reading.complete
        [alone] = backend.read([task])
        assert alone.raw_response == reading.raw_response
        assert alone.log_probability == pytest.approx(reading.log_probability, abs=1e-3)


@pytest.mark.usefixtures("_offline")
def test_a_half_downloaded_checkpoint_is_rejected(
    half_downloaded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(half_downloaded / "hub"))
    assert not is_complete_in_cache(REPO_ID)
    with pytest.raises(ModelLoadError, match=f"only half downloaded: {SHARDS[1]} missing"):
        new_backend().check()


def test_the_service_answers_from_it(home: Path, tmp_path: Path) -> None:
    image = tmp_path / "captcha.png"
    image.write_bytes(CAPTCHA)
    variables = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "USE_GPU": "false"}
    with running(ENTRY_SCRIPT, **variables, QWEN_MODEL="") as server:
        server.wait_until_ready()
        url = f"http://127.0.0.1:{server.port}"
        health = requests.get(f"{url}/health", timeout=MAX_WAIT_S).json()
        assert (health["model"], health["model_status"]) == (REPO_ID, "ready")
        answer = requests.post(f"{url}/ocr", data=image.read_bytes(), timeout=MAX_WAIT_S)
        assert answer.status_code == 200
        assert answer.json()["raw_response"]


def test_the_service_does_not_start_from_a_half_downloaded_one(half_downloaded: Path) -> None:
    variables = {"HF_HOME": str(half_downloaded), "HF_HUB_OFFLINE": "1", "QWEN_MODEL": REPO_ID}
    done = subprocess.run(
        ENTRY_SCRIPT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if "half downloaded" in line]
    assert f"hf download {REPO_ID}" in line
    assert "Traceback" not in done.stderr
