"""Build llama-server, convert a small checkpoint, and run the contract against it.

    python -m evaluation.llama_server /tmp/llama

The folder gets the sources of llama.cpp from the package llama-cpp-python, the server (about ten
minutes of one core), a checkpoint with random weights in the published layout, and the two GGUF
files of llama.cpp's own converter. A second run uses the existing files.

cmake, ninja, a C++ compiler and PyPI are needed, and what `make test` installs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evaluation.published.layout import Shape, write_checkpoint
from evaluation.published.vocabulary import read_vocabulary
from evaluation.services.service_process import (
    PROJECT,
    RunningService,
    free_port,
    running_service,
)

PACKAGE, VERSION = "llama_cpp_python", "0.3.36"
# The converter imports it, also for a model that does not need it.
CONVERTER_PACKAGE = "sentencepiece==0.2.3"
# Names the folder to the tests of `CONTRACT`, which pytest collects only by this path.
FOLDER_VARIABLE = "LLAMA_SERVER_FOLDER"
CONTRACT = PROJECT / "tests" / "backends" / "openai" / "llama_server_contract.py"
# Answers depend on the image with this spread.
SMALL = Shape(
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    heads=4,
    key_value_heads=2,
    mrope_section=(2, 3, 3),
    # The converter counts the merger's layers as blocks, and rejects a lower depth.
    vision_depth=3,
    vision_width=64,
    vision_heads=4,
    weight_spread=0.4,
)
BUILD_OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    # The build would download the page.
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
}
# Tokens of the cache that concurrent requests share: an image has at most about 500.
CONTEXT_TOKENS, SLOTS = 16384, 4

Run = Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class LlamaFolder:
    """The paths in the folder.

    Attributes:
        root: The folder itself.
    """

    root: Path

    @property
    def sources(self) -> Path:
        """The package's sources."""
        return self.root / f"{PACKAGE}-{VERSION}"

    @property
    def llama_cpp(self) -> Path:
        """The sources of llama.cpp."""
        return self.sources / "vendor" / "llama.cpp"

    @property
    def server(self) -> Path:
        """The server program."""
        return self.root / "build" / "bin" / "llama-server"

    @property
    def packages(self) -> Path:
        """Packages that the converter needs beside the project's own."""
        return self.root / "packages"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that is converted."""
        return self.root / "checkpoint"

    @property
    def model(self) -> Path:
        """The text model."""
        return self.root / "model.gguf"

    @property
    def vision(self) -> Path:
        """The vision encoder."""
        return self.root / "mmproj.gguf"


def run_command(command: Sequence[str]) -> None:
    """Run a command; its output is shown.

    Raises:
        CalledProcessError: The command failed.
    """
    print("$", *command, flush=True)
    subprocess.run(command, check=True)


def prepare(folder: LlamaFolder, run: Run = run_command) -> None:
    """Create the missing files in the folder.

    Args:
        folder: The folder; it may be missing.
        run: Runs a command and raises CalledProcessError if it fails.
    """
    folder.root.mkdir(parents=True, exist_ok=True)
    steps: list[tuple[Path, Callable[[Path], None]]] = [
        (folder.sources, lambda target: _unpack(folder, target, run)),
        (folder.server, lambda _: _build(folder, run)),
        (folder.packages, lambda target: _install(target, run)),
        (folder.checkpoint, _write_checkpoint),
        (folder.model, lambda target: _convert(folder, target, run)),
        (folder.vision, lambda target: _convert(folder, target, run, "--mmproj")),
    ]
    for target, make in steps:
        if not target.exists():
            # Written under another name first, so that an interrupted step is repeated.
            part = target.with_name(f"part-{target.name}")
            make(part)
            if part.exists():
                part.replace(target)


def _unpack(folder: LlamaFolder, target: Path, run: Run) -> None:
    """Download the package's sources and unpack them."""
    package = f"{PACKAGE}=={VERSION}"
    options = ["--no-deps", "--no-binary", ":all:", "--dest", str(folder.root)]
    run([sys.executable, "-m", "pip", "download", *options, package])
    shutil.rmtree(target, ignore_errors=True)
    with tarfile.open(folder.root / f"{PACKAGE}-{VERSION}.tar.gz") as archive:
        archive.extractall(target, filter="data")
    [inner] = target.iterdir()
    inner.replace(folder.sources)
    target.rmdir()


def _build(folder: LlamaFolder, run: Run) -> None:
    """Build the server."""
    build = str(folder.server.parent.parent)
    options = [f"-D{name}={value}" for name, value in BUILD_OPTIONS.items()]
    run(["cmake", "-G", "Ninja", "-S", str(folder.llama_cpp), "-B", build, *options])
    run(["cmake", "--build", build, "--target", "llama-server"])


def _install(target: Path, run: Run) -> None:
    """Install the packages of the converter outside of the project's environment."""
    where = ["--no-deps", "--target", str(target)]
    run([sys.executable, "-m", "pip", "install", *where, CONVERTER_PACKAGE])


def _write_checkpoint(target: Path) -> None:
    """Write a small checkpoint with random weights and the real vocabulary."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    write_checkpoint(target, SMALL, read_vocabulary())


def _convert(folder: LlamaFolder, target: Path, run: Run, *options: str) -> None:
    """Convert the checkpoint without loss: its bf16 weights are exact in fp32."""
    converter = str(folder.llama_cpp / "convert_hf_to_gguf.py")
    output = ["--outtype", "f32", "--outfile", str(target)]
    python = ["env", f"PYTHONPATH={folder.packages}", sys.executable]
    run([*python, converter, str(folder.checkpoint), *output, *options])


@contextmanager
def llama_server(folder: LlamaFolder, port: int | None = None) -> Iterator[RunningService]:
    """Run the server on a loopback port; None chooses a free one.

    Raises:
        ServiceStartError: The server ended or was not ready in time.
    """
    port = free_port() if port is None else port
    files = ["--model", str(folder.model), "--mmproj", str(folder.vision)]
    where = ["--host", "127.0.0.1", "--port", str(port)]
    size = ["--ctx-size", str(CONTEXT_TOKENS), "--parallel", str(SLOTS)]
    command = (str(folder.server), *files, *where, *size)
    with running_service({}, command=command, port=port) as service:
        yield service


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare a folder and run the contract; the exit status is that of the tests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder for 1.5 GB of files")
    folder = LlamaFolder(parser.parse_args(arguments).folder.resolve())
    prepare(folder)
    run_command([str(folder.server), "--version"])
    environment = {**os.environ, FOLDER_VARIABLE: str(folder.root)}
    tests = [sys.executable, "-m", "pytest", "-q", str(CONTRACT)]
    sys.exit(subprocess.run(tests, env=environment, cwd=PROJECT).returncode)


if __name__ == "__main__":
    main()
