from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from evaluation import llama_server
from evaluation.llama_server import PACKAGE, VERSION, LlamaFolder, prepare
from tests.support.checkpoints import published_vocabulary

pytestmark = pytest.mark.live

# What stands in for the program: its command line, as the reply of /health.
STAND_IN = f"""#!{sys.executable}
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({{"arguments": sys.argv[1:]}}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


class Commands:
    """Notes commands and makes what they would make."""

    def __init__(self, folder: LlamaFolder) -> None:
        self.folder = folder
        self.run: list[Sequence[str]] = []

    def __call__(self, command: Sequence[str]) -> None:
        self.run.append(command)
        if "download" in command:
            with tarfile.open(self.folder.root / f"{PACKAGE}-{VERSION}.tar.gz", "w:gz") as archive:
                script = "vendor/llama.cpp/convert_hf_to_gguf.py"
                archive.addfile(tarfile.TarInfo(f"{PACKAGE}-{VERSION}/{script}"), io.BytesIO())
        elif "--build" in command:
            self.folder.server.parent.mkdir(parents=True)
            self.folder.server.write_text(STAND_IN, encoding="utf-8")
            self.folder.server.chmod(0o755)
        elif "--target" in command:
            Path(command[command.index("--target") + 1]).mkdir()
        elif "--outfile" in command:
            Path(command[command.index("--outfile") + 1]).touch()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setattr(llama_server, "read_vocabulary", published_vocabulary)
    return Commands(LlamaFolder(tmp_path / "llama"))


def test_every_file_is_made_once(commands: Commands) -> None:
    folder = commands.folder
    prepare(folder, commands)
    download, configure, build, install, model, vision = commands.run
    assert download[-1] == f"{PACKAGE}=={VERSION}"
    assert str(folder.llama_cpp) in configure
    assert build[-2:] == ["--target", "llama-server"]
    assert install[-1].startswith("sentencepiece==")
    for command in (model, vision):
        assert str(folder.llama_cpp / "convert_hf_to_gguf.py") in command
        assert str(folder.checkpoint) in command
    assert "--mmproj" in vision
    assert "--mmproj" not in model
    config = json.loads((folder.checkpoint / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen2VLForConditionalGeneration"]
    prepare(folder, commands)
    assert len(commands.run) == 6


def test_an_interrupted_phase_is_repeated(commands: Commands) -> None:
    def interrupted(command: Sequence[str]) -> None:
        commands(command)
        if "--mmproj" in command:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(commands.folder, interrupted)
    assert not commands.folder.vision.exists()
    prepare(commands.folder, commands)
    assert commands.folder.vision.exists()
    assert len(commands.run) == 7


def test_the_server_is_started_with_both_files(commands: Commands) -> None:
    prepare(commands.folder, commands)
    with llama_server.llama_server(commands.folder) as server:
        arguments = server.health["arguments"]
        assert arguments[arguments.index("--model") + 1] == str(commands.folder.model)
        assert arguments[arguments.index("--mmproj") + 1] == str(commands.folder.vision)
        assert arguments[arguments.index("--host") + 1] == "127.0.0.1"
