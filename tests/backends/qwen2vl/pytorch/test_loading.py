from __future__ import annotations

import json
import pickle
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.backend import PyTorchBackend
from qwen_captcha.backends.qwen2vl.pytorch.placement import LoadPlan
from qwen_captcha.errors import ModelLoadError
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import noise_image, write_small_checkpoint

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("torch_threads", "cores", "workers", "threads"),
    [(8, 4, 1, 4), (8, 4, 2, 2), (8, 5, 2, 2), (8, 2, 4, 1), (1, 8, 2, 1)],
    ids=["quota", "two workers", "odd cores", "more workers than cores", "chosen by the user"],
)
def test_a_worker_takes_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, torch_threads: int, cores: int, workers: int, threads: int
) -> None:
    torch.set_num_threads(torch_threads)
    monkeypatch.setattr(loading, "usable_cores", lambda: cores)
    assert loading.use_available_cores(workers) == threads
    assert torch.get_num_threads() == threads


FAULTS_OF_A_BATCH = """
import resource
import torch
from qwen_captcha.backends.qwen2vl.pytorch import loading

def batch():
    assert sum(part[0].item() for part in [torch.ones(2**20) for _ in range(6)]) == 6  # 4 MiB each

loading.retain_freed_memory()
for _ in range(3):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another libc")
def test_memory_of_a_batch_is_reused_by_the_next_one() -> None:
    # A process of its own: what others freed before counts, too.
    command = [sys.executable, "-c", FAULTS_OF_A_BATCH]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    # 24 MiB are 6,144 pages.
    assert int(done.stdout) < 600


def test_gc_freeze_covers_only_objects_that_exist() -> None:
    script = """
import gc
import weakref
from qwen_captcha.backends.qwen2vl import backend
import torch, transformers

class Knot:
    def __init__(self):
        self.self = self

backend.freeze_loaded_objects()
known, knot = len(gc.get_objects()), weakref.ref(Knot())
assert gc.get_freeze_count() > 100 * known
gc.collect()
assert knot() is None
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    assert done.stderr == ""


@dataclass
class WritesWhenLoaded:
    """Makes a file where it is unpickled."""

    mark: Path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_loading_a_pickle_would_run_code(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(WritesWhenLoaded(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.fixture
def harmful(tmp_path: Path) -> Path:
    """Return a checkpoint with pickled weights, and code of its own that a loader could run."""
    folder = write_small_checkpoint(tmp_path / "checkpoint")
    code = f"from pathlib import Path\nPath({str(tmp_path / 'mark')!r}).touch()\n"
    (folder / "remote.py").write_text(code, encoding="utf-8")
    for name, owners in (
        ("config.json", ("AutoConfig", "AutoModel", "AutoModelForImageTextToText")),
        ("processor_config.json", ("AutoProcessor", "AutoImageProcessor")),
        ("tokenizer_config.json", ("AutoTokenizer", "AutoProcessor")),
    ):
        path = folder / name
        config = json.loads(path.read_text(encoding="utf-8"))
        config["auto_map"] = {owner: "remote.Remote" for owner in owners}
        path.write_text(json.dumps(config), encoding="utf-8")
    torch.save({"weights": WritesWhenLoaded(tmp_path / "mark")}, folder / "pytorch_model.bin")
    return folder


def backend_of(folder: Path) -> PyTorchBackend:
    return PyTorchBackend(
        str(folder), model_name="harmful", use_gpu=False, min_pixels=3136, max_pixels=15680
    )


def test_code_in_a_checkpoint_is_not_run(harmful: Path) -> None:
    backend = backend_of(harmful)
    backend.check()
    backend.load()
    assert not (harmful.parent / "mark").exists()
    assert len(backend.read([GenerationRequest(noise_image(60, 60), "", 2)])) == 1


def test_pickled_weights_are_no_weights(harmful: Path) -> None:
    (harmful / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"model\.safetensors missing"):
        backend_of(harmful).check()
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        loading.load_model(harmful, LoadPlan("float32"))
    assert not (harmful.parent / "mark").exists()
