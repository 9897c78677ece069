"""Files sent to a GPU machine, the run there, and its results."""

from __future__ import annotations

import shutil
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

from training import gpu_run
from training.build import build_config, build_model, build_processor, save_checkpoint
from training.generators.archive import add_file
from training.rendering import fonts

pytestmark = pytest.mark.live

DEJAVU = Path(matplotlib.get_data_path()) / "fonts/ttf"
FACES = ["DejaVuSans.ttf", "DejaVuSerif.ttf", "missing.ttf"]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"licence": "MIT", "latin": FACES, "hanzi": [], "held_out": False}
    monkeypatch.setattr(gpu_run, "package_table", lambda: {"dejavu": package})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    save_checkpoint(
        build_model(build_config(depth=1, width=64, heads=2), 0), build_processor(), folder
    )
    return folder


def archive(path: Path, count: int) -> None:
    noise = np.random.default_rng(0)
    with tarfile.open(path, "w") as written:
        rows = []
        for index in range(count):
            stream = BytesIO()
            pixels = noise.integers(0, 255, (40, 100, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(stream, "PNG")
            add_file(written, f"{index}.png", stream.getvalue())
            rows.append(f"{index}.png\tab{index}\talnum")
        add_file(written, "labels.tsv", "\n".join(rows).encode())


@pytest.mark.usefixtures("table")
def test_a_pack_has_all_files_of_a_run(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    archive(tmp_path / "real/one.tar", 40)
    archive(tmp_path / "real/two.tar", 40)
    folder = tmp_path / "pack"
    size = gpu_run.pack(folder, [tmp_path / "real"], checkpoint, DEJAVU)
    assert size == gpu_run.size_of(folder)
    assert (folder / "training/train.py").is_file()
    assert (folder / "qwen_captcha/images/crop.py").is_file()
    assert (folder / "checkpoint/model.safetensors").is_file()
    for face in FACES[:2]:
        assert 0 < (folder / "fonts" / face).stat().st_size < (DEJAVU / face).stat().st_size / 3
    with tarfile.open(folder / "real/one.tar") as packed:
        rows = packed.extractfile("labels.tsv").read().decode().splitlines()  # type: ignore[union-attr]
        assert len(rows) == 40
        names = {row.split("\t")[0] for row in rows}
        assert names < set(packed.getnames())
    monkeypatch.setattr(gpu_run, "MAX_PACK_BYTES", size - 100_000)
    smaller = gpu_run.pack(folder, [tmp_path / "real"], checkpoint, DEJAVU)
    assert smaller <= size - 100_000
    monkeypatch.setattr(gpu_run, "MAX_PACK_BYTES", 1000)
    with pytest.raises(gpu_run.PackTooLargeError):
        gpu_run.pack(folder, [tmp_path / "real"], checkpoint, DEJAVU)


def test_pieces_are_joined_to_the_same_files(tmp_path: Path) -> None:
    content = bytes(range(256)) * 100
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as written:
        add_file(written, "model.safetensors", content)
        add_file(written, "onnx/text.onnx", b"graph")
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    for index in range(0, len(stream.getvalue()), 9000):
        part = stream.getvalue()[index : index + 9000]
        (pieces / f"checkpoint.tar.{index // 9000:02}").write_bytes(part)
    gpu_run.join(pieces, tmp_path / "joined")
    assert (tmp_path / "joined/model.safetensors").read_bytes() == content
    assert (tmp_path / "joined/onnx/text.onnx").read_bytes() == b"graph"


@pytest.mark.live
@pytest.mark.usefixtures("table")
def test_the_small_form_runs_and_resumes(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    archive(tmp_path / "real/one.tar", 20)
    folder = tmp_path / "pack"
    gpu_run.pack(folder, [tmp_path / "real"], checkpoint, DEJAVU)
    # The subsets stand where the packed code's own table of typefaces looks.
    known = next(iter(fonts.package_table().values()))["latin"][0]
    (folder / "fonts" / known).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "fonts" / FACES[0], folder / "fonts" / known)
    for _ in range(2):
        speed = gpu_run.run(
            *(folder, tmp_path / "out", 0.02),
            batch_size=2,
            learning_rate=1e-4,
            depth=2,
            level=0,
        )
        assert speed > 0
    gpu_run.join(tmp_path / "out", tmp_path / "back")
    assert (tmp_path / "back/model.safetensors").stat().st_size > 100_000
    assert sys.getsizeof((tmp_path / "back/log.jsonl").read_text()) > 100
