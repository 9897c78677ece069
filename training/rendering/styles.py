"""The look of a captcha as data: `Style`, and `sample_style`, which draws one at random.

Styles range from plain to heavily distorted. No third party's generator is imitated; ranges are
wide enough that real ones fall inside.

Units: lengths are fractions of the em size (text) or of the canvas height (everything else), `quad`
one of a character's own width and height, `wave` the steepest slope of a wave, angles degrees,
probabilities and contrasts in [0, 1].
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Style:
    """One style. `None` or 0 switches a trait off."""

    canvas_height: int
    em: float
    layout: str
    tracking: float
    gap_jitter: float
    align: float
    font_per_character: bool
    rotation: float
    shear: float
    quad: float
    common_shear: float
    size_jitter: float
    rise: float
    stretch: float
    stretch_jitter: float
    fill: str
    stroke: float
    shadow: float
    colours: str
    contrast: float
    dark_background: bool
    background: str
    background_strength: float
    decoys: int
    straight_lines: int
    curves: int
    arcs: int
    strokes: int
    dots: int
    line_width: float
    strike: float
    strike_smooth: bool
    strike_hatched: bool
    strike_inverts: bool
    erasers: int
    lines_in_ink: bool
    lines_over: bool
    smooth_lines: bool
    wave: float
    wave_length: float
    ripple: float
    bend: float
    swirl: float
    lens: float
    scatter: float
    jagged: bool
    warp_everything: bool
    blur: float
    noise: float
    specks: float
    low_resolution: float
    palette: int
    jpeg: int
    border: bool
    letterbox: float
    filter: str
    fade: float
    pale_end: float
    cut_end: float
    aliased: bool


class Traits:
    """A source of randomness for each trait, seeded by the trait's name.

    A trait that is added later draws from a source of its own, so that the pictures of the others
    stay as they are.

    Args:
        seed: Fixes all of them.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sources: dict[str, random.Random] = {}

    def __getitem__(self, name: str) -> random.Random:
        """Return the source of the trait `name`."""
        if name not in self._sources:
            self._sources[name] = random.Random(f"{self._seed}/{name}")
        return self._sources[name]


def _maybe(rng: random.Random, chance: float, low: float, high: float) -> float:
    return rng.uniform(low, high) if rng.random() < chance else 0.0


def _count(rng: random.Random, chance: float, low: int, high: int) -> int:
    return rng.randint(low, high) if rng.random() < chance else 0


# Kinds of clutter and how often each occurs at full difficulty.
_CLUTTER = (
    ("decoys", 0.15),
    ("straight_lines", 0.45),
    ("curves", 0.45),
    ("arcs", 0.33),
    ("strokes", 0.14),
    ("dots", 0.45),
    ("strike", 0.3),
)
_MAX_CLUTTER = 3  # with more kinds at once it cannot be read, and a model only learns to guess


def _clutter_kinds(trait: Traits, difficulty: float) -> frozenset[str]:
    drawn = [(trait[f"chance of {kind}"].random() / chance, kind) for kind, chance in _CLUTTER]
    kinds = [kind for rank, kind in sorted(drawn) if rank < difficulty]
    return frozenset(kinds[:_MAX_CLUTTER])


# What makes a captcha harder, and its value where it is switched off.
_TRAITS: dict[str, Any] = {
    "rotation": 0.0,
    "shear": 0.0,
    "quad": 0.0,
    "common_shear": 0.0,
    "gap_jitter": 0.0,
    "size_jitter": 0.0,
    "rise": 0.0,
    "stretch": 1.0,
    "stretch_jitter": 0.0,
    "fill": "solid",
    "shadow": 0.0,
    "wave": 0.0,
    "ripple": 0.0,
    "bend": 0.0,
    "swirl": 0.0,
    "lens": 0.0,
    "scatter": 0.0,
    "erasers": 0,
    "blur": 0.0,
    "noise": 0.0,
    "specks": 0.0,
    "low_resolution": 0.0,
    "palette": 0,
    "filter": "",
    "fade": 0.0,
    "pale_end": 0.0,
    "cut_end": 0.0,
    "aliased": False,
    **{kind: 0 for kind, _ in _CLUTTER},
}
_TRAIT_COUNTS = (2, 7)  # a generator does a few things, and those thoroughly


def _of_few_traits(trait: Traits, style: Style) -> Style:
    traits = [name for name, off in _TRAITS.items() if getattr(style, name) != off]
    traits.sort(key=lambda name: trait[f"rank of {name}"].random())
    kept = traits[: trait["number of traits"].randint(*_TRAIT_COUNTS)]
    return replace(style, **{name: _TRAITS[name] for name in traits if name not in kept})


# Kinds of background other than white paper, and how often each occurs at full difficulty where
# white occurs five times.
_BACKGROUNDS = {
    "plain": 4,
    "gradient": 2,
    "bands": 0.7,
    "blobs": 1.6,
    "grain": 1.2,
    "grid": 0.5,
    "rings": 0.5,
    "spokes": 0.6,
    "shapes": 0.8,
}


def sample_style(rng: random.Random, difficulty: float = 1.0) -> Style:
    """Draw a style.

    Args:
        rng: Source of randomness.
        difficulty: 0 draws plain print, 1 the whole range; scales chances and extents.
    """
    d = difficulty
    trait = Traits(rng.getrandbits(64))
    # One latent for all clutter, so that quiet and busy styles both occur.
    crowd = trait["crowd"].random() * d
    dark = trait["dark"].random() < 0.15 * d
    # Clutter over pale text is unreadable.
    strong_text = crowd > 0.5 or trait["strong_text"].random() < 0.6
    grain = 1.0 if strong_text else 0.4  # and so is what is behind it
    clutter = _clutter_kinds(trait, d)
    thick = trait["thick"].random() < 0.2
    crossings = 0.3 * crowd if thick else crowd  # many thick lines leave nothing to read
    small = trait["small"].random() < 0.2 * d
    style = Style(
        canvas_height=int(trait["canvas_height"].triangular(20, 130, 38)),
        em=trait["em"].uniform(0.22, 0.45)
        if small
        else trait["em"].triangular(0.8 - 0.3 * d, 0.9 + 0.35 * d, 0.8),
        layout=trait["layout"].choices(("run", "cells", "tight"), (5, 3, 2.2))[0],
        tracking=trait["tracking"].gauss(0.06, 0.12 * d + 0.03),
        gap_jitter=_maybe(trait["gap_jitter"], 0.4 * d, 0.05, 0.35),
        align=trait["align"].choice((0.5, 0.5, 0.0, trait["align"].random()))
        if trait["align"].random() < d
        else 0.5,
        font_per_character=trait["font_per_character"].random() < 0.25 * d,
        rotation=_maybe(trait["rotation"], 0.9 * d, 3, 60)
        * (1.0 if trait["rotation"].random() < 0.55 else 0.5),
        shear=_maybe(trait["shear"], 0.3 * d, 0.1, 0.5),
        quad=_maybe(trait["quad"], 0.2 * d, 0.05, 0.3),
        common_shear=trait["common_shear"].gauss(0, 0.32)
        if trait["common_shear"].random() < 0.25 * d
        else 0.0,
        size_jitter=_maybe(trait["size_jitter"], 0.4 * d, 0.05, 0.4),
        rise=_maybe(trait["rise"], 0.6 * d, 0.02, 0.4 if small else 0.25),
        stretch=trait["stretch"].uniform(0.5, 1.35)
        if trait["stretch"].random() < 0.45 * d
        else 1.0,
        stretch_jitter=_maybe(trait["stretch_jitter"], 0.3 * d, 0.05, 0.4),
        fill=trait["fill"].choices(
            ("solid", "hollow", "relief", "outlined", "gradient", "hatched"),
            (10, 4.2 * d, 2 * d, 1.2 * d, 0.6 * d, 0.15 * d),
        )[0],
        stroke=trait["stroke"].uniform(0.02, 0.07),
        shadow=_maybe(trait["shadow"], 0.22 * d, 0.02, 0.1),
        colours=trait["colours"].choices(("black", "one", "each"), (3, 9 * d, 7 * d))[0],
        contrast=trait["contrast"].uniform(0.6, 1.0)
        if strong_text
        else trait["contrast"].uniform(1 - 0.5 * d, 0.85),
        dark_background=dark,
        background=trait["background"].choices(
            ("white", *_BACKGROUNDS), (5, *(weight * d for weight in _BACKGROUNDS.values()))
        )[0],
        background_strength=grain * trait["background_strength"].random() * (0.25 + 0.45 * d),
        decoys=_count(trait["decoys"], "decoys" in clutter, 5, 60),
        straight_lines=_count(
            trait["straight_lines"], "straight_lines" in clutter, 1, 2 + int(6 * crossings)
        ),
        curves=_count(trait["curves"], "curves" in clutter, 1, 1 + int(3 * crossings)),
        arcs=_count(trait["arcs"], "arcs" in clutter, 1, 2 + int(10 * crossings)),
        strokes=_count(trait["strokes"], "strokes" in clutter, 20, 160),
        dots=_count(trait["dots"], "dots" in clutter, 5, 20 + int(250 * crowd**2)),
        line_width=trait["line_width"].uniform(0.03, 0.06)
        if thick
        else trait["line_width"].uniform(0.008, 0.03),
        strike=_maybe(
            trait["strike"], "strike" in clutter, 0.015, trait["strike"].choice((0.075, 0.075, 0.1))
        ),
        strike_smooth=trait["strike_smooth"].random() < 0.65,
        strike_hatched=trait["strike_hatched"].random() < 0.2,
        strike_inverts=trait["strike_inverts"].random() < 0.15 * d,
        erasers=_count(trait["erasers"], 0.12 * d, 3, 14),
        lines_in_ink=trait["lines_in_ink"].random() < 0.4,
        lines_over=trait["lines_over"].random() < 0.7,
        smooth_lines=trait["smooth_lines"].random() < 0.5,
        wave=_maybe(trait["wave"], 0.4 * d, 0.05, 0.75),
        wave_length=trait["wave_length"].triangular(0.5, 5.0, 1.2),
        ripple=_maybe(trait["ripple"], 0.16 * d, 0.005, 0.03),
        bend=_maybe(trait["bend"], 0.16 * d, 0.02, 0.08),
        swirl=_maybe(trait["swirl"], 0.05 * d, -0.5, 0.5),
        lens=_maybe(trait["lens"], 0.08 * d, 0.1, 0.4),
        scatter=_maybe(trait["scatter"], 0.08 * d, 0.01, 0.035),
        jagged=trait["jagged"].random()
        < 0.4,  # warps as most generators compute them, pixel by pixel
        warp_everything=trait["warp_everything"].random() < 0.5,
        blur=_maybe(trait["blur"], 0.12 * d, 0.005, 0.018),
        noise=grain * _maybe(trait["noise"], 0.16 * d, 2, 20),
        specks=_maybe(trait["specks"], 0.12 * d, 0.002, 0.05),
        low_resolution=_maybe(trait["low_resolution"], 0.15 * d, 0.5, 0.85),
        palette=trait["palette"].choice((4, 8, 16, 32, 128))
        if trait["palette"].random() < 0.12 * d
        else 0,
        jpeg=trait["jpeg"].randint(35, 92) if trait["jpeg"].random() < 0.45 else 0,
        border=trait["border"].random() < 0.12 * d,
        letterbox=_maybe(trait["letterbox"], (0.25 if small else 0.02) * d, 0.08, 0.25),
        filter=trait["filter"].choices(
            ("", "invert", "edges", "emboss"), (30, 1.2 * d, 0.4 * d, 0.4 * d)
        )[0],
        fade=_maybe(trait["fade"], 0.1 * d, 0.2, 0.65),
        pale_end=_maybe(trait["pale_end"], 0.06 * d, 0.4, 0.8),
        cut_end=_maybe(trait["cut_end"], 0.06 * d, 0.05, 0.3),
        aliased=trait["aliased"].random() < 0.12 * d,
    )
    return _of_few_traits(trait, style)


def struck(style: Style, rng: random.Random) -> Style:
    """Return the style with turned characters, struck in their own ink, over decoy letters.

    Generators of Chinese characters do little else, and that thoroughly.
    """
    return replace(
        style,
        rotation=rng.uniform(10, 45),
        colours="one",
        strike=rng.uniform(0.02, 0.075),
        strike_hatched=rng.random() < 0.5,
        strike_inverts=False,
        decoys=rng.choice((0, rng.randint(10, 60))),
    )
