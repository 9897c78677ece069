from __future__ import annotations

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from evaluation.accuracy.comparison import compare
from evaluation.accuracy.confusion import confusions
from evaluation.accuracy.html_report import (
    MAX_MISTAKES,
    confusion_table,
    render_page,
    shown_families,
    wrong_answers,
)
from evaluation.accuracy.predictions import ScoredFamilies
from evaluation.accuracy.report import Report
from evaluation.accuracy.summary import figures_of
from evaluation.accuracy.table import share
from tests.support.fake_backend import image_bytes
from tests.support.readings import (
    NOTHING_READ,
    answered,
    family_of,
    report_of,
    scored,
)

pytestmark = pytest.mark.live

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def readings(tmp_path: Path) -> ScoredFamilies:
    """Families that may and may not be looked at; labels that must be escaped."""
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(image_bytes(50 + index))
    open_family = family_of(
        "open", "alnum", "a<b", "O0", "xy", folder=tmp_path, tune=True, case_sensitive=True
    )
    kept_back = family_of("kept_back", "chinese", "验证", folder=tmp_path, tune=False)
    return [
        scored(open_family, answered("a<b", 0.9), answered("00", 0.7, "<slow>"), NOTHING_READ),
        scored(kept_back, answered("验正", 0.95)),
    ]


def page_of(report: Report, mistakes_of: str | None = None) -> ElementTree.Element:
    """Return the page's root; a page that is not well-formed raises."""
    html = render_page(report, mistakes_of).removeprefix("<!DOCTYPE html>\n")
    return ElementTree.fromstring(html)


def texts(page: ElementTree.Element) -> str:
    return " ".join(" ".join(page.itertext()).split())


def pictures(page: ElementTree.Element) -> list[tuple[str, bytes]]:
    """Return each picture's type and bytes, all of them from inside the page."""
    found = []
    for image in page.iter("img"):
        head, content = image.attrib["src"].split(",", 1)
        kind = re.fullmatch(r"data:(image/[a-z+]+);base64", head)
        assert kind is not None
        found.append((kind[1], base64.b64decode(content, validate=True)))
    return found


def test_the_page_is_well_formed_and_has_its_parts(readings: ScoredFamilies) -> None:
    page = page_of(report_of(*readings))
    parts = {element.attrib["id"] for element in page.iter() if "id" in element.attrib}
    assert parts >= {
        "headline",
        "audit",
        "confidence",
        "reliability",
        "coverage",
        "lengths",
        "families",
        "confusion",
        "mistakes",
    }
    text = texts(page)
    assert "4 images of mine (2 families), read by bundled, kind=text" in text
    assert "16.7% are read right" in text
    assert "6.0 attempts on average" in text
    assert "1 replies warn: <slow>" in text
    assert "No answer: 1 no_answer." in text


def test_the_page_requests_no_other_host(readings: ScoredFamilies) -> None:
    page = page_of(report_of(*readings), "all")
    tags = {element.tag for element in page.iter()}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base"})
    for element in page.iter():
        for name in ("src", "href", "srcset", "data", "action", "background"):
            assert element.attrib.get(name, "data:").startswith("data:")
    styles = "".join(element.text or "" for element in page.iter("style"))
    assert not re.search(r"url\(|@import|https?:", styles)


def test_diagrams_are_pictures_with_lines_and_no_references(readings: ScoredFamilies) -> None:
    diagrams = [data for kind, data in pictures(page_of(report_of(*readings))) if "svg" in kind]
    assert len(diagrams) == 3
    for diagram in diagrams:
        root = ElementTree.fromstring(diagram)
        assert root.tag == f"{SVG}svg"
        assert len(list(root.iter(f"{SVG}path"))) > 20
        assert not list(root.iter(f"{SVG}text"))
        for element in root.iter():
            for name, value in element.attrib.items():
                assert not name.endswith("href") or value.startswith("#")


def test_mistakes_show_their_picture_and_what_was_read(
    readings: ScoredFamilies, tmp_path: Path
) -> None:
    page = page_of(report_of(*readings))
    shown = [data for kind, data in pictures(page) if kind == "image/png"]
    # The surest first.
    assert shown == [(tmp_path / name).read_bytes() for name in ("1.png", "2.png")]
    assert "O0 00 · 0.700 open/1.png" in texts(page)
    assert "xy no_answer · 0.000 open/2.png" in texts(page)


@pytest.mark.parametrize(
    ("mistakes_of", "scope", "families"),
    [
        pytest.param(None, "tune", ["open"], id="default"),
        pytest.param("tune", "tune", ["open"], id="tune"),
        pytest.param("all", "all", ["open", "kept_back"], id="all"),
        pytest.param("none", "none", [], id="none"),
    ],
)
def test_mistakes_of_held_out_families_are_hidden_by_default(
    readings: ScoredFamilies, mistakes_of: str | None, scope: str, families: list[str]
) -> None:
    shown, word = shown_families(readings, mistakes_of)
    assert (word, [family.name for family, _ in shown]) == (scope, families)
    page = page_of(report_of(*readings), mistakes_of)
    assert ("kept_back/0.png" in texts(page)) is (scope == "all")
    # 证 → 正 is a mistake of the family that is kept back.
    assert ("证 → 正" in texts(page)) is (scope == "all")


def test_all_mistakes_are_shown_where_nothing_is_marked() -> None:
    unmarked = [scored(family_of("one", "alnum", "a"), answered("b"))]
    assert shown_families(unmarked, None) == (unmarked, "all")


def test_competitors_are_columns_of_the_table(readings: ScoredFamilies) -> None:
    theirs = [scored(family, *[NOTHING_READ] * len(made)) for family, made in readings]
    page = page_of(report_of(*readings, competitors=[compare("other 1.0", readings, theirs)]))
    ours, others = (share(figures_of(made).ece) for made in (readings, theirs))
    assert f"ECE {ours}, other 1.0 {others}." in texts(page)
    assert ours != others
    (table,) = [
        element for element in page.iter("table") if element.attrib.get("id") == "competitors"
    ]
    assert [row[0].text for row in table.iter("tr")] == ["all families", "bundled", "other 1.0"]


@pytest.mark.parametrize("baseline", [None, 0.5])
def test_a_baseline_of_ddddocr_has_a_column_only_where_it_is_given(
    baseline: float | None,
) -> None:
    family = family_of("one", "digits", "1", baseline=baseline)
    text = texts(page_of(report_of(scored(family, answered("1")))))
    assert ("ddddocr, known" in text) is (baseline is not None)


def test_the_confusion_table_counts_pairs_of_characters() -> None:
    family = family_of("one", "alnum", "O0", "OO", "lO")
    table = confusion_table(
        confusions([scored(family, answered("00"), answered("0O"), answered("l"))])
    )
    assert table.drawn == ["o"]
    assert table.read == ["0", ""]
    assert table.counts == [[2, 1]]
    assert table.maximum == 2
    assert table.pairs == [("o", "0", 2, 0.5), ("o", "", 1, 0.25)]


def test_a_report_without_mistakes_has_a_note(tmp_path: Path) -> None:
    page = page_of(report_of(scored(family_of("one", "digits", "1"), answered("1"))))
    assert "Characters taken for others None." in texts(page)
    assert "Mistakes, the surest first None." in texts(page)


def test_a_long_list_of_mistakes_is_cut_with_a_note(tmp_path: Path) -> None:
    labels = ["a"] * (MAX_MISTAKES + 5)
    for index in range(len(labels)):
        (tmp_path / f"{index}.png").write_bytes(b"image")
    family = family_of("one", "alnum", *labels, folder=tmp_path)
    reading = scored(family, *[answered("b", 0.5)] * len(labels))
    assert len(wrong_answers([reading])) == len(labels)
    page = page_of(report_of(reading))
    assert len(pictures(page)) == 3 + MAX_MISTAKES
    assert f"{MAX_MISTAKES} of {len(labels)}." in texts(page)
