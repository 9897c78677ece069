from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evaluation.accuracy.readers.base import Reply
from evaluation.accuracy.readers.ddddocr import DdddocrReader
from evaluation.evaluate import main, parser
from evaluation.services.client import Answer
from tests.support.stub_service import Call, stub_service

pytestmark = pytest.mark.live

HEALTH = {"status": "ok", "model": "bundled", "model_status": "ready"}


def reader(call: Call) -> tuple[int, bytes]:
    """Answer with the image's own bytes, as if they were what is drawn."""
    if call.path == "/health":
        return 200, json.dumps(HEALTH).encode()
    text = call.body.decode()
    if text == "broken":
        return 422, json.dumps(
            {"success": False, "text": "", "confidence": 0.0, "error_type": "undecodable_image"}
        ).encode()
    return 200, json.dumps(
        {"success": True, "text": text, "confidence": 0.75, "raw_response": f" {text}"}
    ).encode()


@pytest.fixture
def url() -> Iterator[str]:
    with stub_service(reader) as address:
        yield address


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two families of two images: each image's bytes are what the stub reads."""
    folder = tmp_path / "samples"
    for family, rows in {
        "letters": {"1.png": ("aB3", "AB3", "alnum", ""), "2.png": ("c4", "d4", "alnum", "")},
        "sums": {"1.gif": ("12", "12", "math", "5+7=?"), "2.jpg": ("broken", "3", "math", "1+2=")},
    }.items():
        (folder / family).mkdir(parents=True)
        for file, (content, *_) in rows.items():
            (folder / family / file).write_text(content)
        lines = ["\t".join([file, *rest]).rstrip() for file, (_, *rest) in rows.items()]
        (folder / family / "labels.tsv").write_text("\n".join(lines) + "\n")
    facts = {"letters": {"ddddocr": 0.4, "tune": True}, "sums": {"ddddocr": 0.6, "tune": False}}
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder


def test_the_command_prints_a_table(
    tree: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tree), "--url", url, "--workers", "3"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"4 images of {tree}, read by bundled\n\n")
    rows = {" ".join(line.split()) for line in printed.out.splitlines()}
    (letters,) = [row for row in rows if row.startswith("letters ")]
    assert letters.startswith("letters 2 0.500 0.095 – 0.905 0.000 0.500 ")
    assert letters.endswith(" – 0.400 +0.100")
    (held_out,) = [row for row in rows if row.startswith("held-out half (1) ")]
    assert held_out.endswith(" 1 0.600 -0.100")
    assert "0.50 0.750 0.667 0.500" in rows
    assert "no answer: 1 undecodable_image" in rows
    assert printed.err == ""


def test_the_files_are_every_prediction_and_a_page(tree: Path, url: str, tmp_path: Path) -> None:
    data, page = tmp_path / "report.json", tmp_path / "report.html"
    options = ["--option", "kind=text", "--option", "charset=a=b"]
    assert main([str(tree), "--url", url, *options, "--json", str(data), "--html", str(page)]) == 0
    report = json.loads(data.read_text(encoding="utf-8"))
    assert (report["folder"], report["url"], report["model"]) == (str(tree), url, "bundled")
    assert report["options"] == {"kind": "text", "charset": "a=b"}
    assert report["errors"] == {"undecodable_image": 1}
    by_file = {(p["family"], p["file"]): p for p in report["predictions"]}
    assert len(by_file) == 4
    assert by_file["sums", "1.gif"]["expression"] == "5+7=?"
    assert by_file["sums", "2.jpg"]["error_type"] == "undecodable_image"
    html = page.read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>")
    shown = "".join(ElementTree.fromstring(html).itertext())
    assert "letters/2.png" in shown
    assert "sums/2.jpg" not in shown


def test_a_model_that_is_not_there_is_one_line(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tree), "--model", "/nowhere/at/all"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "nowhere" in printed.err
    assert printed.err.count("\n") == 1


def test_ddddocr_reads_the_same_images(
    tree: Path, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(reader: DdddocrReader, *, beta: bool) -> None:
        reader.name = "other beta" if beta else "other"

    def read(reader: DdddocrReader, image: bytes, content_type: str, kind: str) -> Reply:
        return Reply(Answer("d4" if reader.name == "other" else "12", 0.5, True, None, None), 0.1)

    monkeypatch.setattr(DdddocrReader, "__init__", build)
    monkeypatch.setattr(DdddocrReader, "read", read)
    assert main([str(tree), "--url", url, "--against", "ddddocr"]) == 0
    rows = {" ".join(line.split()) for line in capsys.readouterr().out.splitlines()}
    (letters,) = [row for row in rows if row.startswith("letters ")]
    assert letters.endswith(" 0.500 1.000 0.000 1.000")
    (sums,) = [row for row in rows if row.startswith("sums ")]
    assert sums.endswith(" 0.000 1.000 0.500 1.000")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--option", "kind"], "kind is not NAME=VALUE"),
        (["--workers", "0"], "0 is not a whole number from 1 to 256"),
        (["--url", "http://127.0.0.1:1", "--model", "bundled"], "not allowed with"),
        (["--against", "tesseract"], "invalid choice"),
    ],
)
def test_misuse_of_the_command_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["folder", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "health", "message"),
    [
        pytest.param(503, {"model_status": "loading"}, "not ready: loading", id="loading"),
        pytest.param(503, {"model_status": "failed"}, "not ready: failed", id="failed"),
    ],
)
def test_a_service_that_is_not_ready_is_one_line(
    tree: Path,
    status: int,
    health: dict[str, str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stub_service(lambda _: (status, json.dumps(health).encode())) as url:
        assert main([str(tree), "--url", url]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_a_folder_without_labels_is_one_line(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--url", url]) == 1
    assert "holds no labelled images" in capsys.readouterr().err


def test_the_table_is_printed_even_where_the_file_cannot_be_written(
    tree: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tree), "--url", url, "--json", str(tmp_path / "no" / "report.json")]) == 1
    printed = capsys.readouterr()
    assert "all families" in printed.out
    assert "No such file or directory" in printed.err


def test_each_argument_is_documented() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "evaluation.md"
    rows = [row for row in page.read_text(encoding="utf-8").splitlines() if row.startswith("| `-")]
    documented = {row.split("`")[1].split()[0] for row in rows}
    offered = {name for action in parser()._actions for name in action.option_strings}
    assert documented == offered - {"-h", "--help"}
