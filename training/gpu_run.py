r"""Train for some minutes on a rented GPU: pack a folder here, run it there, join what comes back.

The folder holds the code, a checkpoint to begin with, subsets of the typefaces and images of real
generators, in at most 60 MiB, so that it can be sent to a machine that has Python, torch,
transformers and OpenCV but no network. Rendering, not the GPU, limits the speed: every core but one
draws from the first second on.

Run:
    python -m training.gpu_run pack runs/pack --real runs/drawn
    (on the GPU machine, in the folder)  python -m training.gpu_run run --minutes 7 --out OUT
    python -m training.gpu_run join OUT runs/from_gpu
A CPU does the same slowly: `python -m training.gpu_run run --minutes 2 --out OUT --batch-size 16`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from qwen_captcha.checkpoints.resolve import BUNDLED_CHECKPOINT
from training.generators.archive import add_file
from training.rendering.alphabet import ALPHABET
from training.rendering.fonts import FONT_ROOT, package_table

MAX_PACK_BYTES = 60 * 2**20
# Of these, what typefaces and images may take; the rest is code and weights.
_MAX_FONT_BYTES = 18 * 2**20
MAX_PIECE_BYTES = 15 * 2**20
_WEBP_QUALITY = 80  # of real images, most of which are several times as large without loss
_FONTS, _REAL, _BEGIN = "fonts", "real", "checkpoint"
_ARCHIVE = "checkpoint.tar"  # what comes back, in pieces
_CODE = ("qwen_captcha", "training")


class PackTooLargeError(Exception):
    """The folder is over the limit; the message has the sizes."""


def pack(folder: Path, real: Sequence[Path], checkpoint: Path, font_root: Path = FONT_ROOT) -> int:
    """Write all that a run needs; return its size in bytes.

    Args:
        folder: Is made anew.
        real: Folders of archives; what fits of each archive is taken.
        checkpoint: To begin with.
        font_root: Where typefaces are.

    Raises:
        PackTooLargeError: Code, weights and typefaces alone are over the limit.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    root = Path(__file__).parent.parent
    for part in _CODE:
        shutil.copytree(
            root / part,
            folder / part,
            ignore=shutil.ignore_patterns("__pycache__", "*.safetensors", "*.onnx", "web"),
        )
    shutil.copytree(checkpoint, folder / _BEGIN)
    _pack_fonts(folder / _FONTS, font_root)
    left = MAX_PACK_BYTES - size_of(folder)
    archives = sorted(path for one in real for path in one.iterdir() if path.suffix == ".tar")
    if left <= 0:
        raise PackTooLargeError(f"{size_of(folder)} bytes without an image of a real generator")
    _pack_real(folder / _REAL, archives, left)
    return size_of(folder)


def size_of(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _pack_fonts(folder: Path, root: Path) -> None:
    """Write each training face with the characters that are drawn, until the limit is reached.

    Latin faces come first: Chinese ones are as large as all of them.
    """
    from fontTools import subset  # type: ignore[import-untyped]

    tables = [package for package in package_table().values() if not package["held_out"]]
    faces = [face for table in tables for face in table["latin"]]
    faces += [face for table in tables for face in table["hanzi"] if face not in faces]
    taken = 0
    for face in tqdm(faces, unit="face", disable=None, leave=False):
        file, _, number = face.partition("#")
        target = folder / file
        if not (root / file).is_file() or target.is_file():
            continue
        options = subset.Options(font_number=int(number or 0), hinting=False)
        try:
            with subset.load_font(str(root / file), options) as font:
                subsetter = subset.Subsetter(options)
                subsetter.populate(text=ALPHABET)
                subsetter.subset(font)
                target.parent.mkdir(parents=True, exist_ok=True)
                subset.save_font(font, str(target), options)
        except Exception as error:  # bitmap faces and old formats: the others are enough
            tqdm.write(f"left out {file}: {error}")
            target.unlink(missing_ok=True)
            continue
        taken += target.stat().st_size
        if taken > _MAX_FONT_BYTES:
            target.unlink()
            break


def _pack_real(folder: Path, archives: Sequence[Path], limit: int) -> None:
    """Write an equal share of each archive's images, coded smaller, within `limit` bytes."""
    folder.mkdir(exist_ok=True)
    left = limit
    for index, path in enumerate(tqdm(archives, unit="archive", disable=None, leave=False)):
        share = left // (len(archives) - index)
        taken = _pack_archive(path, folder / path.name, share)
        left -= taken


def _pack_archive(source: Path, target: Path, limit: int) -> int:
    """Write the first images of an archive that fit `limit` bytes; return the bytes written."""
    rows, used = [], 0
    with tarfile.open(source) as archive, tarfile.open(target, "w") as written:
        stream = archive.extractfile("labels.tsv")
        lines = stream.read().decode("utf-8").splitlines() if stream else []
        for line in lines:
            name, rest = line.split("\t", 1)
            member = archive.extractfile(name)
            if member is None:
                continue
            name, content = _smaller(name, member.read())
            # A member of a tar takes whole blocks of 512 bytes, and one for its header.
            size = 512 * (2 + len(content) // 512) + len(line) + 1
            if used + size > limit - 4096:
                break
            used += size
            add_file(written, name, content)
            rows.append(f"{name}\t{rest}")
        add_file(written, "labels.tsv", "\n".join(rows).encode("utf-8"))
    if not rows:
        target.unlink()
        return 0
    return target.stat().st_size


def _smaller(name: str, content: bytes) -> tuple[str, bytes]:
    """Return an image as WebP with loss where that is smaller; animations stay as they are."""
    with Image.open(BytesIO(content)) as image:
        if getattr(image, "n_frames", 1) > 1 or image.mode in ("RGBA", "LA", "PA"):
            return name, content
        stream = BytesIO()
        image.convert("RGB").save(stream, "WEBP", quality=_WEBP_QUALITY)
    coded = stream.getvalue()
    return (f"{Path(name).stem}.webp", coded) if len(coded) < len(content) else (name, content)


def run(
    folder: Path,
    out: Path,
    minutes: float,
    *,
    batch_size: int,
    learning_rate: float,
    depth: int,
    level: int,
) -> float:
    """Train in a packed folder and write the checkpoint in pieces; return images a second.

    A second call in the same folder goes on from where the first one stopped.
    """
    state = folder / "run"
    resumed = (state / "state.pt").is_file()
    begin = folder / "grown"
    if not begin.is_dir():
        _module(folder, ["training.grow", _BEGIN, str(begin), "--depth", str(depth)])
    before = _progress(state)[1] if resumed else 0.0
    arguments = ["--out", str(state), "--init", str(begin), "--level", str(level)]
    arguments += ["--real", _REAL, "--minutes", f"{before / 60 + minutes:g}", "--fonts", _FONTS]
    arguments += ["--batch-size", str(batch_size), "--learning-rate", f"{learning_rate:g}"]
    arguments += ["--workers", str(max(1, (os.cpu_count() or 2) - 1)), "--decay", "0.8"]
    started = time.monotonic()
    _module(folder, ["training.train", *arguments, *(["--resume"] if resumed else [])])
    print(f"trained and validated in {time.monotonic() - started:.0f} s")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(state / "log.jsonl", state / "checkpoint")
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(state / "checkpoint", arcname=".")
    content = stream.getvalue()
    for piece, start in enumerate(range(0, len(content), MAX_PIECE_BYTES)):
        part = content[start : start + MAX_PIECE_BYTES]
        (out / f"{_ARCHIVE}.{piece:02}").write_bytes(part)
    images, seconds = _progress(state)
    return images / max(1e-9, seconds)


def _module(folder: Path, command: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", *command], check=True, cwd=folder)


def _progress(state: Path) -> tuple[int, float]:
    """Return the images and seconds of a run so far."""
    last = json.loads((state / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return int(last["images"]), float(last["seconds"])


def join(pieces: Path, folder: Path) -> None:
    """Put a checkpoint together again from the pieces of its archive."""
    folder.mkdir(parents=True, exist_ok=True)
    content = b"".join(part.read_bytes() for part in sorted(pieces.glob(f"{_ARCHIVE}.*")))
    with tarfile.open(fileobj=BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write a folder to send")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--real", type=Path, action="append", required=True)
    packing.add_argument("--checkpoint", type=Path, default=BUNDLED_CHECKPOINT)
    running = commands.add_parser("run", help="train, in the packed folder")
    running.add_argument("--folder", type=Path, default=Path("."))
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--minutes", type=float, required=True)
    running.add_argument("--batch-size", type=int, default=256)
    running.add_argument("--learning-rate", type=float, default=1.2e-3)
    running.add_argument("--depth", type=int, default=6, help="vision blocks (6)")
    running.add_argument("--level", type=int, default=6, help="of the curriculum (6)")
    joining = commands.add_parser("join", help="put what came back together")
    joining.add_argument("pieces", type=Path)
    joining.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "pack":
        size = pack(arguments.folder, arguments.real, arguments.checkpoint)
        print(f"{arguments.folder}: {size / 2**20:.1f} MiB")
    elif arguments.command == "run":
        speed = run(
            arguments.folder.resolve(),
            arguments.out.resolve(),
            arguments.minutes,
            batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            depth=arguments.depth,
            level=arguments.level,
        )
        print(f"{speed:.0f} images a second")
    else:
        join(arguments.pieces, arguments.folder)
        print(f"wrote {arguments.folder}")


if __name__ == "__main__":
    main()
