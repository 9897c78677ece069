from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from stub_service import Call, stub_service

from evaluation.client import Answer, Exchange
from evaluation.evaluate import main, predict
from evaluation.samples import Family, Sample

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
    assert main([str(tree), "--url", url]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"4 images of {tree}, read by bundled\n\n")
    rows = {" ".join(line.split()) for line in printed.out.splitlines()}
    assert "letters 2 0.500 0.095 – 0.905 0.400 +0.100 0.750 –" in rows
    assert "all families (2) 4 0.500 0.500 +0.000 0.562 1" in rows
    assert "held-out half (1) 2 0.500 0.600 -0.100 0.375 1" in rows
    assert "no answer: 1 undecodable_image" in rows
    assert printed.err == ""


def test_the_json_file_holds_every_prediction(tree: Path, url: str, tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    assert main([str(tree), "--url", url, "--json", str(target)]) == 0
    report = json.loads(target.read_text(encoding="utf-8"))
    assert (report["folder"], report["url"], report["model"]) == (str(tree), url, "bundled")
    assert [family["accuracy"] for family in report["families"]] == [0.5, 0.5]
    assert report["errors"] == {"undecodable_image": 1}
    by_file = {(p["family"], p["file"]): p for p in report["predictions"]}
    assert len(by_file) == 4
    first = by_file["letters", "1.png"]
    assert first.pop("latency_s") > 0
    assert first == {
        "family": "letters",
        "file": "1.png",
        "label": "AB3",
        "expression": None,
        "text": "aB3",
        "raw_response": " aB3",
        "confidence": 0.75,
        "answered": True,
        "error_type": None,
        "correct": True,
    }
    assert by_file["sums", "1.gif"]["expression"] == "5+7=?"
    assert by_file["sums", "2.jpg"]["error_type"] == "undecodable_image"


def test_each_image_goes_out_once_with_its_content_type(tmp_path: Path) -> None:
    files = {"1.png": "image/png", "2.JPG": "image/jpeg", "3.gif": "image/gif", "4": "application/"}
    for file in files:
        (tmp_path / file).write_text(file)
    family = Family("f", "alnum", tuple(Sample(tmp_path / file, "x") for file in files))
    sent: list[tuple[bytes, str]] = []
    steps: list[None] = []

    def ocr(image: bytes, content_type: str) -> tuple[Answer, Exchange]:
        sent.append((image, content_type))
        return Answer("x", 1.0, True, "x", None), Exchange(200, {}, 0.5)

    ((judged, predictions),) = predict([family], ocr, lambda: steps.append(None))
    assert judged is family
    assert [p.latency_s for p in predictions] == [0.5] * 4
    assert [image.decode() for image, _ in sent] == list(files)
    assert all(content_type.startswith(files[image.decode()]) for image, content_type in sent)
    assert len(steps) == 4


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
