from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

from qwen_captcha.checkpoints.files import (
    CaptchaFacts,
    HalfDownloadedError,
    View,
    Views,
    check_architecture,
    described_weights,
    download_checkpoint,
    download_description,
    find_checkpoint,
    inspect_checkpoint,
    is_complete_in_cache,
)
from qwen_captcha.checkpoints.hub import HUB_HOST, is_hub_name
from qwen_captcha.checkpoints.safetensors_header import Weights
from qwen_captcha.errors import ModelLoadError
from tests.support.fake_hub import FakeHub, running_hub

REPO_ID = "Qwen/Qwen2-VL-2B-Instruct"
REVISION = "a" * 40
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
FACTS = {"follows_prompts": False, "answers_questions": False, "pixel_range": [100, 200]}


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def write_shard(path: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[6],"data_offsets":[0,12]}}'
    # The cache keeps files of equal content once.
    path.write_bytes(struct.pack("<Q", len(header)) + header + f"{path.stem:>12}"[-12:].encode())


def write_files(folder: Path) -> Path:
    """Write a checkpoint of two tiny shards, in the layout of the published ones."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"model_type": "qwen2_vl", "torch_dtype": "bfloat16"})
    write_json(
        folder / "model.safetensors.index.json",
        {
            "metadata": {"total_size": 24},
            "weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]},
        },
    )
    for shard in SHARDS:
        write_shard(folder / shard)
    for name in ("preprocessor_config.json", "tokenizer.json", "generation_config.json"):
        write_json(folder / name, {"name": name})
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "checkpoint")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of Hugging Face's, and no network."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def cached(cache: Path) -> Path:
    """The snapshot folder of a complete checkpoint in the cache."""
    repository = cache / f"models--{REPO_ID.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION, encoding="utf-8")
    return write_files(repository / "snapshots" / REVISION)


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that has the checkpoint, and a way to it."""
    with running_hub(REPO_ID, folder) as hub:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        yield hub


@pytest.mark.parametrize(
    ("checkpoint", "is_name"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", True),
        ("someone/my_model.v2", True),
        ("bundled", False),
        ("a/b/c", False),
        ("./model", False),
        ("~/model", False),
        ("/model", False),
        ("../model", False),
        ("", False),
        ("owner/", False),
        ("owner/na me", False),
    ],
)
def test_hub_names_and_folders_are_distinguished(checkpoint: str, is_name: bool) -> None:
    assert is_hub_name(checkpoint) is is_name


def test_a_folder_that_looks_like_a_hub_name_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "models" / "mine")
    assert not is_hub_name("models/mine")
    files = find_checkpoint("models/mine")
    assert files is not None
    assert files.folder == Path("models/mine")


def test_a_complete_folder_is_inspected(folder: Path) -> None:
    files = find_checkpoint(str(folder))
    assert files is not None
    assert (files.folder, files.weights) == (folder, Weights(12))
    assert files.facts == CaptchaFacts(True, True, None)


def test_a_single_file_of_weights_is_enough(folder: Path) -> None:
    for name in ("model.safetensors.index.json", *SHARDS):
        (folder / name).unlink()
    write_shard(folder / "model.safetensors")
    assert inspect_checkpoint(folder, "mine").weights == Weights(6)


def test_the_newer_names_of_processor_files_will_do(folder: Path) -> None:
    (folder / "preprocessor_config.json").rename(folder / "processor_config.json")
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    assert inspect_checkpoint(folder, "mine").folder == folder


def test_capabilities_are_read_from_the_captcha_json(folder: Path) -> None:
    write_json(folder / "captcha.json", {**FACTS, "trained": "long"})
    assert inspect_checkpoint(folder, "mine").facts == CaptchaFacts(False, False, (100, 200))
    write_json(folder / "captcha.json", {**FACTS, "crops_to_text": True})
    assert inspect_checkpoint(folder, "mine").facts.crops_to_text
    views = [{"stretch": 1.25}, {"stretch": 2, "pixel_range": [300, 400]}]
    write_json(folder / "captcha.json", {**FACTS, "views": {"sure": 0.7, "views": views}})
    found = inspect_checkpoint(folder, "mine").facts.views
    assert found == Views(0.7, (View(1.25), View(2.0, (300, 400))))


@pytest.mark.parametrize(
    "facts",
    [
        {**FACTS, "pixel_range": [100]},
        {**FACTS, "pixel_range": None},
        {**FACTS, "pixel_range": ["a", "b"]},
        {**FACTS, "pixel_range": [200, 100]},
        {**FACTS, "pixel_range": [0, 100]},
        {"pixel_range": [100, 200]},
        {**FACTS, "stretch": 9},
        {**FACTS, "views": {"views": [{"stretch": 1}]}},
        {**FACTS, "views": {"sure": 7, "views": [{"stretch": 1}]}},
        {**FACTS, "views": {"sure": 0.7, "views": []}},
        {**FACTS, "views": {"sure": 0.7, "views": [{"stretch": 0}]}},
        {**FACTS, "views": {"sure": 0.7, "views": [{"stretch": 1, "pixel_range": [2, 1]}]}},
        {**FACTS, "views": 1.25},
    ],
    ids=[
        "one limit",
        "null",
        "text",
        "turned round",
        "zero",
        "fields missing",
        "stretch",
        "no limit of views",
        "limit of views",
        "no view",
        "stretch of a view",
        "pixels of a view",
        "views as a number",
    ],
)
def test_facts_that_cannot_be_used_are_rejected(folder: Path, facts: object) -> None:
    write_json(folder / "captcha.json", facts)
    with pytest.raises(ModelLoadError, match=r"captcha\.json of mine must hold"):
        inspect_checkpoint(folder, "mine")


@pytest.mark.parametrize(
    ("removed", "named"),
    [
        (SHARDS[1], SHARDS[1]),
        ("config.json", "config.json"),
        ("preprocessor_config.json", "preprocessor_config.json or processor_config.json"),
        ("tokenizer.json", "tokenizer.json or vocab.json"),
        ("model.safetensors.index.json", "model.safetensors"),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_gets_it(
    folder: Path, removed: str, named: str
) -> None:
    (folder / removed).unlink()
    with pytest.raises(HalfDownloadedError) as refusal:
        find_checkpoint(str(folder))
    line = str(refusal.value)
    assert line.startswith(f"{folder} is only half downloaded: {named} missing. ")
    assert f"`hf download NAME --local-dir {folder}`" in line
    assert "\n" not in line


def test_a_shard_that_is_cut_short_is_named(folder: Path) -> None:
    shard = folder / SHARDS[0]
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(HalfDownloadedError, match=f"half downloaded: {SHARDS[0]} is cut short"):
        inspect_checkpoint(folder, "mine")


def test_a_link_of_the_cache_without_its_file_is_missing(folder: Path, tmp_path: Path) -> None:
    (folder / SHARDS[0]).unlink()
    (folder / SHARDS[0]).symlink_to(tmp_path / "blob.incomplete")
    with pytest.raises(HalfDownloadedError, match=f"{SHARDS[0]} missing"):
        inspect_checkpoint(folder, "mine")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ('{"model_type": "qwen2_5_vl"}', "of the architecture qwen2_5_vl, not qwen2_vl"),
        ('{"model_type": "bert"}', "of the architecture bert, not qwen2_vl"),
        ("{}", "of the architecture None, not qwen2_vl"),
        ("[]", "not a JSON object"),
        ("{", "cannot be read"),
    ],
    ids=["Qwen2.5-VL", "BERT", "unknown", "a list", "cut short"],
)
def test_another_architecture_is_rejected(folder: Path, config: str, complaint: str) -> None:
    (folder / "config.json").write_text(config, encoding="utf-8")
    with pytest.raises(ModelLoadError, match=complaint):
        check_architecture(folder, "mine")
    with pytest.raises(ModelLoadError, match=complaint):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("weight_map", [{}, None, "all"], ids=["empty", "null", "text"])
def test_an_index_without_weights_is_rejected(folder: Path, weight_map: object) -> None:
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    with pytest.raises(ModelLoadError, match="names no weights"):
        inspect_checkpoint(folder, "mine")


@pytest.mark.parametrize("checkpoint", ["/no/such/folder", "./none", "nothing", "a/b/c"])
def test_neither_a_folder_nor_a_hub_name_is_rejected(checkpoint: str) -> None:
    with pytest.raises(ModelLoadError) as refusal:
        find_checkpoint(checkpoint)
    assert str(refusal.value).startswith(f"{checkpoint} is neither a folder nor a hub name")
    assert "QWEN_MODEL" in str(refusal.value)


def test_a_complete_hub_name_is_found_in_the_cache(cached: Path) -> None:
    assert is_complete_in_cache(REPO_ID)
    files = find_checkpoint(REPO_ID)
    assert files is not None
    assert files.folder == cached


def test_a_hub_name_that_is_not_cached_has_to_be_downloaded() -> None:
    assert not is_complete_in_cache(REPO_ID)
    assert find_checkpoint(REPO_ID) is None


def test_a_half_downloaded_hub_name_is_rejected_without_a_network(cached: Path) -> None:
    (cached / SHARDS[1]).unlink()
    assert not is_complete_in_cache(REPO_ID)
    with pytest.raises(HalfDownloadedError) as refusal:
        find_checkpoint(REPO_ID)
    line = str(refusal.value)
    assert line.startswith(f"{REPO_ID} is only half downloaded: {SHARDS[1]} missing.")
    assert f"`hf download {REPO_ID}`" in line
    assert "HF_ENDPOINT=https://hf-mirror.com" in line
    assert "HF_HUB_DISABLE_XET=1" in line


def test_a_half_downloaded_hub_name_is_completed_with_a_network(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    (cached / SHARDS[1]).unlink()
    assert find_checkpoint(REPO_ID) is None


def test_a_cached_checkpoint_of_another_architecture_is_not_downloaded_again(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    write_json(cached / "config.json", {"model_type": "bert"})
    assert not is_complete_in_cache(REPO_ID)
    with pytest.raises(ModelLoadError, match="architecture bert"):
        find_checkpoint(REPO_ID)


def test_a_download_gets_what_serving_needs_and_no_more(
    hub: FakeHub, folder: Path, cache: Path
) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    (folder / "README.md").write_text("read me", encoding="utf-8")
    files = download_checkpoint(REPO_ID)
    assert cache in files.folder.parents
    assert files.weights == Weights(12)
    assert set(hub.served) == set(hub.names()) - {"pytorch_model.bin", "README.md"}
    assert is_complete_in_cache(REPO_ID)


def test_a_download_gets_only_what_is_missing(hub: FakeHub) -> None:
    snapshot = download_checkpoint(REPO_ID).folder
    hub.served.clear()
    shard = snapshot / SHARDS[1]
    shard.resolve().unlink()
    shard.unlink()
    assert find_checkpoint(REPO_ID) is None
    download_checkpoint(REPO_ID)
    assert hub.served == [SHARDS[1]]


def test_a_description_is_small(hub: FakeHub) -> None:
    folder = download_description(REPO_ID)
    assert sorted(hub.served) == ["config.json", "model.safetensors.index.json"]
    check_architecture(folder, REPO_ID)
    assert described_weights(folder, REPO_ID) == Weights(12)
    assert find_checkpoint(REPO_ID) is None


def test_a_repository_without_an_index_has_an_unknown_size(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    assert described_weights(folder, "mine") is None


def test_an_unknown_hub_name_is_a_one_line_error(hub: FakeHub) -> None:
    with pytest.raises(ModelLoadError) as refusal:
        download_description("Qwen/Qwen2-VL-3B")
    line = str(refusal.value)
    assert line.startswith("Qwen/Qwen2-VL-3B cannot be downloaded: ")
    assert "404" in line
    assert "\n" not in line


def test_a_download_from_a_mirror_disables_xet(hub: FakeHub) -> None:
    assert urlsplit(hub.url).hostname != HUB_HOST
    download_checkpoint(REPO_ID)
    assert constants.HF_HUB_DISABLE_XET is True


@pytest.mark.parametrize("download", [download_description, download_checkpoint])
def test_a_hub_that_cannot_be_reached_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, download: object
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Port 9 of the loopback is closed everywhere.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelLoadError) as refusal:
        download(REPO_ID)
    line = str(refusal.value)
    assert line.startswith(f"{REPO_ID} cannot be downloaded: ")
    assert "HF_ENDPOINT=https://hf-mirror.com" in line
    assert "\n" not in line


def test_offline_is_named_as_the_reason() -> None:
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE forbids"):
        download_checkpoint(REPO_ID)


def test_a_download_of_another_architecture_is_rejected(hub: FakeHub, folder: Path) -> None:
    write_json(folder / "config.json", {"model_type": "bert"})
    with pytest.raises(ModelLoadError, match="architecture bert"):
        download_checkpoint(REPO_ID)
