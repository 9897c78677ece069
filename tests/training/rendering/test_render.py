import math
import os
import random
import re
from dataclasses import replace
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest

from training.rendering import styles
from training.rendering.clutter import _draw_spokes
from training.rendering.effects import jpeg
from training.rendering.fonts import (
    FONT_ROOT,
    FontLibrary,
    FontsMissingError,
    draws,
    package_table,
)
from training.rendering.glyphs import lay_out
from training.rendering.render import _shifted, render
from training.rendering.styles import (
    _TRAIT_COUNTS,
    _TRAITS,
    Style,
    Traits,
    sample_style,
    struck,
)
from training.rendering.texts import KINDS, sample_text

# matplotlib ships DejaVu: enough to draw with on a machine without Debian's fonts.
DEJAVU = Path(matplotlib.get_data_path()) / "fonts/ttf"


@pytest.fixture(scope="module")
def fonts() -> FontLibrary:
    names = ("DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono.ttf")
    return FontLibrary(latin=(tuple(str(DEJAVU / name) for name in names),), hanzi=())


def plain_print() -> Style:
    return replace(sample_style(random.Random(1), 0.0), jpeg=0, background="white")


def test_same_seed_same_pixels_other_seed_other_pixels(fonts: FontLibrary) -> None:
    style = sample_style(random.Random(5))
    first, again, other = (
        render("a3b9", style, aspect=2.7, fonts=fonts, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("difficulty", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "chinese" not in kind])
def test_every_style_draws_an_image_of_the_asked_shape(
    fonts: FontLibrary, kind: str, difficulty: float
) -> None:
    rng = random.Random(f"{kind}{difficulty}")
    for seed in range(40):
        style = sample_style(rng, difficulty)
        aspect = rng.uniform(0.7, 6)
        text = sample_text(rng, kind, longest=8)
        drawn = render(text, style, aspect=aspect, fonts=fonts, seed=seed)
        width = max(8, round(style.canvas_height * aspect))
        assert drawn.image.dtype == np.uint8
        assert drawn.image.shape == (style.canvas_height, width, 3)
        assert len(drawn.boxes) == len(text.replace(" ", ""))


def test_chinese_characters_are_drawn_one_after_the_other() -> None:
    face = FONT_ROOT / "truetype/wqy/wqy-microhei.ttc"
    if not face.is_file():
        pytest.skip("fonts-wqy-microhei is not installed")
    fonts = FontLibrary(latin=((str(DEJAVU / "DejaVuSans.ttf"),),), hanzi=((str(face),),))
    rng = random.Random(5)
    for kind in ("chinese", "chinese_math"):
        for difficulty in (0.0, 1.0):
            text = sample_text(rng, kind, longest=4)
            style = sample_style(rng, difficulty)
            drawn = render(text, style, aspect=3.0, fonts=fonts, seed=rng.getrandbits(32))
            assert drawn.boxes.shape == (len(text.replace(" ", "")), 4)
    plain = sample_style(random.Random(0), 0.0)
    one, other = (render(text, plain, aspect=2.0, fonts=fonts, seed=1) for text in ("验证", "验码"))
    assert (np.diff(one.boxes[:, 0]) > 0).all()
    assert not np.array_equal(one.image, other.image)


@pytest.fixture(scope="module")
def sampled() -> list[Style]:
    return [sample_style(random.Random(seed)) for seed in range(500)]


def test_no_style_has_more_than_three_kinds_of_clutter(sampled: list[Style]) -> None:
    kinds = ("decoys", "straight_lines", "curves", "arcs", "strokes", "dots", "strike")
    counts = [sum(getattr(style, kind) > 0 for kind in kinds) for style in sampled]
    assert set(counts) == {0, 1, 2, 3}


def test_a_style_is_a_few_traits(sampled: list[Style]) -> None:
    counts = [sum(getattr(one, name) != off for name, off in _TRAITS.items()) for one in sampled]
    assert max(counts) == _TRAIT_COUNTS[1]
    assert min(counts) <= _TRAIT_COUNTS[0]
    for name, off in _TRAITS.items():
        assert any(getattr(style, name) != off for style in sampled), f"{name} never occurs"


def test_a_bend_moves_ink_and_boxes(fonts: FontLibrary) -> None:
    plain = plain_print()
    bent = replace(plain, bend=0.08)
    straight, moved = (
        render("XX", style, aspect=2.0, fonts=fonts, seed=1) for style in (plain, bent)
    )
    assert not np.array_equal(straight.image, moved.image)
    assert np.abs(straight.boxes - moved.boxes).max() > 0.005


def test_a_jagged_warp_makes_no_new_shades(fonts: FontLibrary) -> None:
    plain = replace(plain_print(), colours="black", aliased=True, wave=0.5, warp_everything=True)
    smooth, jagged = (
        render("XX", replace(plain, jagged=jagged), aspect=2.0, fonts=fonts, seed=1).image
        for jagged in (False, True)
    )
    assert len(np.unique(jagged)) == 2 < len(np.unique(smooth))


def test_scattered_pixels_stay_near_their_letters(fonts: FontLibrary) -> None:
    plain = plain_print()
    sharp, frayed = (
        render("XX", replace(plain, scatter=scatter), aspect=2.0, fonts=fonts, seed=1).image
        for scatter in (0.0, 0.035)
    )
    assert not np.array_equal(sharp, frayed)
    reach = 2 + math.ceil(0.035 * sharp.shape[0])
    near = cv2.erode(sharp, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    assert (frayed >= near).all()


def test_perspective_gives_equal_letters_unequal_shapes(fonts: FontLibrary) -> None:
    plain = plain_print()
    flat, tilted = (
        render("XX", style, aspect=2.0, fonts=fonts, seed=1).boxes[:, 2:]
        for style in (plain, replace(plain, quad=0.3))
    )
    assert np.array_equal(flat[0], flat[1])
    assert np.abs(tilted[0] - tilted[1]).max() > 0.01


def test_uneven_gaps_leave_the_text_as_wide_as_it_was(fonts: FontLibrary) -> None:
    plain = replace(plain_print(), layout="run", tracking=0.3)
    even, uneven = (
        render("HHHHHH", style, aspect=5.0, fonts=fonts, seed=7).boxes
        for style in (plain, replace(plain, gap_jitter=0.3))
    )
    distances = [np.diff(boxes[:, 0]) for boxes in (even, uneven)]
    assert np.ptp(distances[0]) < 0.02 < np.ptp(distances[1])
    assert distances[1].min() > 0
    # The last character's gap is behind it.
    assert abs(distances[0].sum() - distances[1].sum()) < 0.3 / 5


def test_stretched_letters_are_unequally_wide_and_equally_tall(fonts: FontLibrary) -> None:
    plain = replace(plain_print(), layout="run")
    style = replace(plain, stretch_jitter=0.4)
    boxes = render("HHHHHH", style, aspect=5.0, fonts=fonts, seed=7).boxes
    assert np.ptp(boxes[:, 2]) / boxes[:, 2].mean() > 0.2
    assert np.ptp(boxes[:, 3]) / boxes[:, 3].mean() < 0.1


def test_a_hatched_strike_lets_paper_through(fonts: FontLibrary) -> None:
    plain = plain_print()
    struck = replace(plain, colours="black", contrast=1.0, strike=0.2)
    whole, hatched = (
        render("I", style, aspect=3.0, fonts=fonts, seed=1).image < 128
        for style in (
            replace(struck, strike_hatched=False),
            replace(struck, strike_hatched=True),
        )
    )
    assert 0.1 * whole.sum() < (whole & ~hatched).sum() < 0.6 * whole.sum()


@pytest.mark.parametrize("trait", ["curves", "arcs", "straight_lines", "strike"])
@pytest.mark.parametrize("smooth", [False, True])
def test_lines_are_smooth_with_that_trait(fonts: FontLibrary, trait: str, smooth: bool) -> None:
    plain = replace(plain_print(), colours="black", aliased=True)
    style = replace(plain, lines_in_ink=True, line_width=0.04, smooth_lines=smooth)
    lined = replace(style, **{trait: 0.05 if trait == "strike" else 4})
    image = render("I", lined, aspect=3.0, fonts=fonts, seed=1).image
    added = image[render("I", style, aspect=3.0, fonts=fonts, seed=1).image != image]
    shades = len(np.unique(added))
    assert shades > 20 if smooth else shades < 10


@pytest.mark.parametrize("fill", ["relief", "hollow"])
def test_letters_made_small_to_fit_have_outlines_to_match(fonts: FontLibrary, fill: str) -> None:
    style = replace(plain_print(), colours="black", contrast=1.0, canvas_height=100, em=1.0)
    carved, solid = (
        render("8888", replace(style, fill=name), aspect=0.7, fonts=fonts, seed=2).image < 128
        for name in (fill, "solid")
    )
    assert 0.5 * solid.sum() < carved.sum() < 1.4 * solid.sum()


def test_ink_moved_over_the_edge_is_lost() -> None:
    mask = np.eye(4, dtype=np.float32)
    assert _shifted(mask, 1, 0).tolist() == [[0] * 4, *mask[:3].tolist()]
    assert _shifted(mask, 0, -2).sum() == 2


def test_spokes_meet_in_one_point() -> None:
    canvas = np.zeros((100, 200, 3), np.uint8)
    smooth = replace(plain_print(), smooth_lines=True)
    _draw_spokes(canvas, smooth, (60, 40), (255.0, 255.0, 255.0), random.Random(1))
    near, far = canvas[35:46, 55:66], canvas[80:91, 150:161]
    assert canvas[40, 60].min() > 200
    assert 2 * far.mean() < near.mean()


def test_plain_print_leaves_visible_ink(fonts: FontLibrary) -> None:
    for seed in range(30):
        style = sample_style(random.Random(seed), difficulty=0.0)
        drawn = render("8W", style, aspect=2.0, fonts=fonts, seed=seed)
        assert np.ptp(drawn.image.astype(int)) > 40


def test_boxes_contain_the_ink_of_their_characters(fonts: FontLibrary) -> None:
    plain = plain_print()
    for style in (plain, replace(plain, wave=0.3, warp_everything=False)):
        for seed in range(20):
            drawn = render("Wi8", style, aspect=3.0, fonts=fonts, seed=seed)
            ink = drawn.image.min(axis=2) < 128
            height, width = ink.shape
            inside = np.zeros_like(ink)
            for x, y, half_width, half_height in drawn.boxes + np.float32([0, 0, 0.03, 0.09]):
                part = (
                    slice(max(0, int((y - half_height) * height)), int((y + half_height) * height)),
                    slice(max(0, int((x - half_width) * width)), int((x + half_width) * width)),
                )
                assert ink[part].any()
                inside[part] = True
            assert (ink & inside).sum() > 0.97 * ink.sum()
            assert np.all(np.diff(drawn.boxes[:, 0]) > 0)


def _lopsidedness(image: np.ndarray, box: np.ndarray) -> float:
    """The difference in ink between the halves of the box's width, as a share."""
    width = image.shape[1]
    ink = 255.0 - image[..., 0]
    middle, reach = round(box[0] * width), int(box[2] * width) + 4
    left, right = ink[:, middle - reach : middle].sum(), ink[:, middle : middle + reach].sum()
    return float(abs(left - right) / (left + right))


def test_some_hollow_letters_are_thicker_on_one_side(fonts: FontLibrary) -> None:
    plain = replace(sample_style(random.Random(0), 0.0), canvas_height=100, jpeg=0, colours="black")
    hollow = replace(plain, background="white", fill="hollow", stroke=0.06, contrast=1.0)
    drawn = [render("I", hollow, aspect=2.0, fonts=fonts, seed=seed) for seed in range(30)]
    shares = [_lopsidedness(one.image, one.boxes[0]) for one in drawn]
    assert min(shares) < 0.05
    assert max(shares) > 0.2


def test_text_changes_the_image(fonts: FontLibrary) -> None:
    style = sample_style(random.Random(3), difficulty=0.0)
    three, eight = (
        render(text, style, aspect=2.0, fonts=fonts, seed=1).image for text in ("3", "8")
    )
    assert not np.array_equal(three, eight)


def test_a_typeface_lists_the_characters_that_it_lacks() -> None:
    face = str(DEJAVU / "DejaVuSansMono.ttf")
    assert draws(face, "a")
    assert draws(face, " ")
    assert not draws(face, "验")


def test_a_typeface_of_capitals_draws_no_small_letters() -> None:
    capitals = [
        str(FONT_ROOT / face)
        for package in package_table().values()
        for face in package.get("capitals_only", [])
    ]
    listed = {face for package in package_table().values() for face in package["latin"]}
    assert {str(FONT_ROOT / face) for face in listed} >= set(capitals)
    assert capitals
    assert not any(draws(face, "a") for face in capitals)
    assert all(draws(face, "A") for face in filter(os.path.exists, capitals))


def test_a_typeface_with_wrong_glyphs_for_signs_does_not_draw_them() -> None:
    wrong = [
        (str(FONT_ROOT / face), signs)
        for package in package_table().values()
        for face, signs in package.get("wrong", {}).items()
    ]
    assert wrong
    assert not any(draws(face, sign) for face, signs in wrong for sign in signs)
    assert draws(str(DEJAVU / "DejaVuSans.ttf"), "×")


def test_jpeg_keeps_colours_where_they_are() -> None:
    red = np.full((32, 32, 3), (250, 20, 10), np.uint8)
    assert np.abs(jpeg(red, 90).astype(int) - red).max() < 6
    # Luma is mostly green, least blue: red survives what blue does not.
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 1)) * np.array([[[1.0, 0, 0]]])
    loss = [
        np.abs(jpeg(picture.astype(np.uint8), 60).astype(int) - picture)[..., channel].mean()
        for picture, channel in ((noise, 0), (noise[..., ::-1], 2))
    ]
    assert loss[0] < 0.8 * loss[1]


def test_narrow_letters_stand_as_far_apart_as_they_are_narrow(fonts: FontLibrary) -> None:
    plain = replace(sample_style(random.Random(0), 0.0), canvas_height=60, layout="run", align=0.0)
    tight = replace(plain, tracking=-0.1, gap_jitter=0.0)
    gaps = []
    for stretch in (1.0, 0.5):
        style = replace(tight, stretch=stretch)
        placed, _ = lay_out("HH", style, (60, 300), fonts, random.Random(0))
        first, second = placed
        gaps.append(second.left - first.left - first.mask.shape[1])
    assert abs(gaps[1]) <= 0.5 * abs(gaps[0]) + 2


def test_missing_fonts_are_an_error_with_the_install_command(tmp_path: Path) -> None:
    with pytest.raises(FontsMissingError, match="make fonts"):
        FontLibrary.open(root=tmp_path)


def test_each_font_package_names_its_licence() -> None:
    table = package_table()
    simple = r"(?:LicenseRef-)?[A-Za-z]+(?:-[A-Za-z0-9.]+)*(?: WITH Font-exception-2\.0)?"
    spdx = re.compile(rf"{simple}(?: (?:AND|OR) {simple})*")
    assert [name for name, one in table.items() if not spdx.fullmatch(one["licence"])] == []
    assert {package["held_out"] for package in table.values()} == {True, False}


def test_a_trait_draws_from_a_source_of_its_own() -> None:
    one, other = Traits(7), Traits(7)
    one["a trait that was added later"].random()
    assert [one["wave"].random() for _ in range(3)] == [other["wave"].random() for _ in range(3)]
    assert Traits(7)["wave"].random() != Traits(7)["blur"].random()
    assert Traits(7)["wave"].random() != Traits(8)["wave"].random()


def test_a_trait_that_is_off_changes_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [sample_style(random.Random(seed)) for seed in range(60)]
    without = {name: off for name, off in styles._TRAITS.items() if name != "pale_end"}
    monkeypatch.setattr(styles, "_TRAITS", without)
    again = [sample_style(random.Random(seed)) for seed in range(60)]
    for before, after in zip(drawn, again, strict=True):
        if not before.pale_end and not after.pale_end:
            assert before == after


def ink_of_columns(image: np.ndarray) -> np.ndarray:
    return 255 - image.min(axis=2).astype(int).min(axis=0)


def test_one_end_of_a_word_is_pale(fonts: FontLibrary) -> None:
    plain = replace(plain_print(), canvas_height=60, colours="black")
    for seed in range(6):
        look = replace(plain, pale_end=0.7)
        ink = ink_of_columns(render("HHHH", look, aspect=3, fonts=fonts, seed=seed).image)
        places = np.flatnonzero(ink > 20)
        ends = sorted((ink[places[:8]].max(), ink[places[-8:]].max()))
        assert ends[0] < 0.5 * ends[1]


def test_an_edge_cuts_one_character(fonts: FontLibrary) -> None:
    plain = replace(plain_print(), canvas_height=60, colours="black")
    for seed in range(6):
        drawn = render("HHHH", replace(plain, cut_end=0.25), aspect=3, fonts=fonts, seed=seed)
        left = drawn.boxes[:, 0] - drawn.boxes[:, 2]
        right = drawn.boxes[:, 0] + drawn.boxes[:, 2]
        outside = (left < -0.01) | (right > 1.01)
        assert outside.sum() == 1


def test_a_thick_strike_inverts_letters(fonts: FontLibrary) -> None:
    plain = replace(plain_print(), canvas_height=60, colours="black")
    struck = replace(plain, strike=0.08, strike_inverts=True, dark_background=False)
    before = render("HHHH", plain, aspect=3, fonts=fonts, seed=1).image.astype(int)
    after = render("HHHH", struck, aspect=3, fonts=fonts, seed=1).image.astype(int)
    changed = np.abs(before - after).max(axis=2) > 100
    assert changed.mean() > 0.05
    assert np.abs(after[changed] - (255 - before[changed])).mean() < 12


def test_erasers_take_ink_out_of_the_letters_and_nothing_else(fonts: FontLibrary) -> None:
    style = replace(plain_print(), colours="black", contrast=1.0)
    whole, erased = (
        render("mmmm", one, aspect=3.0, fonts=fonts, seed=2).image.astype(int)
        for one in (style, replace(style, erasers=12))
    )
    assert (erased >= whole).all()
    assert 0.02 < 1 - (erased < 128).sum() / (whole < 128).sum() < 0.6


def test_a_struck_style_keeps_what_it_does_not_set(fonts: FontLibrary) -> None:
    style = sample_style(random.Random(7), 0.5)
    changed = struck(style, random.Random(1))
    assert changed == struck(style, random.Random(1)) != struck(style, random.Random(2))
    set_by_it = {"rotation", "colours", "strike", "strike_hatched", "strike_inverts", "decoys"}
    assert replace(changed, **{name: getattr(style, name) for name in set_by_it}) == style
    assert changed.strike > 0
    assert changed.rotation >= 10
    plain = replace(changed, strike=0.0, decoys=0)
    drawn, unstruck = (
        render("a3b9", one, aspect=2.7, fonts=fonts, seed=3).image for one in (changed, plain)
    )
    assert not np.array_equal(drawn, unstruck)
