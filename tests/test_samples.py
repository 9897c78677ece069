from __future__ import annotations

import json
from pathlib import Path

import pytest

from qwen_captcha.samples import (
    Family,
    Sample,
    SampleError,
    kind_of,
    read_families,
)


def make_folder(folder: Path, labels: str | None, *files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).write_bytes(b"image")
    if labels is not None:
        (folder / "labels.tsv").write_text(labels, encoding="utf-8")
    return folder


def test_a_tree_with_a_manifest(tmp_path: Path) -> None:
    rows = "2.png\t-5\tmath\t2-7=?\n1.gif\t0\tmath\t5x0=\n"
    make_folder(tmp_path / "b_math", rows, "1.gif", "2.png")
    make_folder(tmp_path / "a_plain", "x.jpg\tAb3\talnum\n", "x.jpg")
    manifest = {
        "a_plain": {
            "kind": "alnum",
            "case_sensitive": True,
            "frames": 1,
            "ddddocr": 0.25,
            "ddddocr_beta": 0.5,
            "tune": True,
        },
        "b_math": {"kind": "math", "ddddocr": 1, "ddddocr_beta": 0, "tune": False},
        "not_here": {"kind": "digits"},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (tmp_path / "README.md").write_text("about", encoding="utf-8")

    assert read_families(tmp_path) == [
        Family(
            name="a_plain",
            kind="alnum",
            samples=(Sample(tmp_path / "a_plain" / "x.jpg", "Ab3"),),
            case_sensitive=True,
            baseline=0.5,
            tune=True,
        ),
        Family(
            name="b_math",
            kind="math",
            samples=(
                Sample(tmp_path / "b_math" / "1.gif", "0", "5x0="),
                Sample(tmp_path / "b_math" / "2.png", "-5", "2-7=?"),
            ),
            baseline=1.0,
            tune=False,
        ),
    ]


def test_a_tree_without_a_manifest_has_no_baseline(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", "1.png\t42\n", "1.png")
    make_folder(tmp_path / "two", "1.png\t验证\n", "1.png")
    assert [(f.name, f.kind, f.baseline, f.tune) for f in read_families(tmp_path)] == [
        ("one", "digits", None, None),
        ("two", "chinese", None, None),
    ]


def test_the_manifests_kind_fills_a_row_without_one(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", "1.png\t42\n2.png\t43\n", "1.png", "2.png")
    (tmp_path / "manifest.json").write_text('{"one": {"kind": "alnum"}}', encoding="utf-8")
    assert [family.kind for family in read_families(tmp_path)] == ["alnum"]


def test_a_single_folder_with_labels(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine", '\ufeff1.png\t"a\tb\n\n', "1.png", "unlabelled.png")
    with pytest.raises(SampleError, match=r"line 1: kind 'b' is none of"):
        read_families(folder)
    (folder / "labels.tsv").write_text('\ufeff1.png\t"a\n\n', encoding="utf-8")
    assert read_families(folder) == [
        Family("mine", "alnum", (Sample(folder / "1.png", '"a'),)),
    ]


def test_several_kinds_in_one_folder_become_families(tmp_path: Path) -> None:
    files = ("1234_1.png", "ab12_1.png", "验证_1.png", "99.PNG")
    families = read_families(make_folder(tmp_path / "mine", None, *files))
    assert [(family.name, [s.label for s in family.samples]) for family in families] == [
        ("mine/alnum", ["ab12"]),
        ("mine/chinese", ["验证"]),
        ("mine/digits", ["1234", "99"]),
    ]


@pytest.mark.parametrize(
    ("file", "label"),
    [
        pytest.param("a3b9.png", "a3b9", id="no-number"),
        pytest.param("a3b9_001.png", "a3b9", id="numbered"),
        pytest.param("a_b_001.webp", "a_b", id="underscore-in-the-label"),
        pytest.param("A3b9_copy.JPeG", "A3b9", id="suffix-in-capitals"),
        pytest.param("3.5_1.bmp", "3.5", id="dot-in-the-label"),
    ],
)
def test_labels_in_file_names(tmp_path: Path, file: str, label: str) -> None:
    make_folder(tmp_path, None, file, "notes.txt", ".hidden_1.png")
    (family,) = read_families(tmp_path)
    assert [(s.path.name, s.label) for s in family.samples] == [(file, label)]


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("0042", "digits"),
        ("-5", "alnum"),
        ("４２", "alnum"),
        ("a3b9", "alnum"),
        ("验证", "chinese"),
        ("a验", "chinese"),
    ],
)
def test_kind_of(label: str, kind: str) -> None:
    assert kind_of(label) == kind


@pytest.mark.parametrize(
    ("labels", "files", "message"),
    [
        pytest.param("1.png\n", ["1.png"], r"line 1: expected file, label", id="no-label-column"),
        pytest.param("1.png\t\n", ["1.png"], r"line 1: expected file, label", id="empty-label"),
        pytest.param("1.png\ta\talnum\tx\ty\n", ["1.png"], r"line 1: expected", id="five-columns"),
        pytest.param("1.png\ta\n2.png\tb\n", ["1.png"], r"line 2: there is no file", id="no-file"),
        pytest.param("1.png\ta\tletters\n", ["1.png"], r"kind 'letters' is none", id="other-kind"),
        pytest.param("", [], r"holds no labelled images", id="empty-label-file"),
        pytest.param(None, ["notes.txt"], r"holds no labelled images", id="no-images"),
        pytest.param(None, ["_001.png"], r"_001.png does not begin with a label", id="no-label"),
    ],
)
def test_misuse_of_a_folder(
    tmp_path: Path, labels: str | None, files: list[str], message: str
) -> None:
    make_folder(tmp_path, labels, *files)
    with pytest.raises(SampleError, match=message):
        read_families(tmp_path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        pytest.param("{", r"manifest.json is not JSON", id="not-json"),
        pytest.param("[1]", r"is not an object of families", id="a-list"),
        pytest.param('{"one": 1}', r"is not an object of families", id="family-is-a-number"),
        pytest.param('{"one": {"kind": "text"}}', r"one in manifest.json: 'text'", id="other-kind"),
    ],
)
def test_misuse_of_the_manifest(tmp_path: Path, manifest: str, message: str) -> None:
    make_folder(tmp_path / "one", "1.png\t42\n", "1.png")
    (tmp_path / "manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(SampleError, match=message):
        read_families(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"nowhere is not a folder"):
        read_families(tmp_path / "nowhere")
