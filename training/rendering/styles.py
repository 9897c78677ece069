"""How a captcha looks, as data: one `Style` is one look, `sample_style` draws looks.

Responsible for: the distribution of looks, from plain to hostile. Invariant: no third party's
generator is imitated here; ranges are wide enough that real ones fall inside.

Units: lengths are fractions of the em size (text) or of the canvas height (everything else),
`quad` one of a character's own width and height, `wave` the steepest slope of a wave, angles
degrees, probabilities and contrasts in [0, 1].
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Style:
    """One look. `None` or 0 switches a trait off."""

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
    aliased: bool


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
_MOST_CLUTTER = 3  # with more kinds at once nobody reads it, and a model only learns to guess


def _clutter_kinds(rng: random.Random, difficulty: float) -> frozenset[str]:
    kinds = [kind for kind, chance in _CLUTTER if rng.random() < chance * difficulty]
    return frozenset(rng.sample(kinds, min(len(kinds), _MOST_CLUTTER)))


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
    "blur": 0.0,
    "noise": 0.0,
    "specks": 0.0,
    "low_resolution": 0.0,
    "palette": 0,
    "filter": "",
    "fade": 0.0,
    "aliased": False,
    **{kind: 0 for kind, _ in _CLUTTER},
}
_MOST_TRAITS = (2, 7)  # a generator does a few things, and those thoroughly


def _of_few_traits(rng: random.Random, style: Style) -> Style:
    traits = [name for name, off in _TRAITS.items() if getattr(style, name) != off]
    kept = rng.sample(traits, min(len(traits), rng.randint(*_MOST_TRAITS)))
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
    """Draw a look.

    Args:
        rng: Source of randomness.
        difficulty: 0 draws plain print, 1 the whole range; scales chances and extents.
    """
    d = difficulty
    crowd = rng.random() * d  # one latent for clutter, so that quiet and busy looks both occur
    dark = rng.random() < 0.1 * d
    strong_text = crowd > 0.5 or rng.random() < 0.6  # clutter over pale text is unreadable
    grain = 1.0 if strong_text else 0.4  # and so is what is behind it
    clutter = _clutter_kinds(rng, d)
    thick = rng.random() < 0.2
    crossings = 0.3 * crowd if thick else crowd  # many thick lines leave nothing to read
    small = rng.random() < 0.2 * d
    style = Style(
        canvas_height=int(rng.triangular(20, 130, 38)),
        em=rng.uniform(0.22, 0.45) if small else rng.triangular(0.8 - 0.3 * d, 0.9 + 0.35 * d, 0.8),
        layout=rng.choices(("run", "cells", "tight"), (5, 3, 2.2))[0],
        tracking=rng.gauss(0.06, 0.12 * d + 0.03),
        gap_jitter=_maybe(rng, 0.4 * d, 0.05, 0.35),
        align=rng.choice((0.5, 0.5, 0.0, rng.random())) if rng.random() < d else 0.5,
        font_per_character=rng.random() < 0.25 * d,
        rotation=_maybe(rng, 0.6 * d, 3, 40) * (1.0 if rng.random() < 0.3 else 0.55),
        shear=_maybe(rng, 0.3 * d, 0.1, 0.5),
        quad=_maybe(rng, 0.2 * d, 0.05, 0.3),
        common_shear=rng.gauss(0, 0.32) if rng.random() < 0.25 * d else 0.0,
        size_jitter=_maybe(rng, 0.4 * d, 0.05, 0.4),
        rise=_maybe(rng, 0.6 * d, 0.02, 0.4 if small else 0.25),
        stretch=rng.uniform(0.5, 1.35) if rng.random() < 0.45 * d else 1.0,
        stretch_jitter=_maybe(rng, 0.3 * d, 0.05, 0.4),
        fill=rng.choices(
            ("solid", "hollow", "relief", "outlined", "gradient", "hatched"),
            (10, 4.2 * d, 2 * d, 1.2 * d, 0.6 * d, 0.15 * d),
        )[0],
        stroke=rng.uniform(0.02, 0.07),
        shadow=_maybe(rng, 0.22 * d, 0.02, 0.1),
        colours=rng.choices(("black", "one", "each"), (3, 9 * d, 7 * d))[0],
        contrast=rng.uniform(0.6, 1.0) if strong_text else rng.uniform(1 - 0.6 * d, 0.85),
        dark_background=dark,
        background=rng.choices(
            ("white", *_BACKGROUNDS), (5, *(weight * d for weight in _BACKGROUNDS.values()))
        )[0],
        background_strength=grain * rng.random() * (0.25 + 0.45 * d),
        decoys=_count(rng, "decoys" in clutter, 5, 60),
        straight_lines=_count(rng, "straight_lines" in clutter, 1, 2 + int(6 * crossings)),
        curves=_count(rng, "curves" in clutter, 1, 1 + int(3 * crossings)),
        arcs=_count(rng, "arcs" in clutter, 1, 2 + int(10 * crossings)),
        strokes=_count(rng, "strokes" in clutter, 20, 160),
        dots=_count(rng, "dots" in clutter, 5, 20 + int(250 * crowd**2)),
        line_width=rng.uniform(0.03, 0.06) if thick else rng.uniform(0.008, 0.03),
        strike=_maybe(rng, "strike" in clutter, 0.015, rng.choice((0.075, 0.075, 0.1))),
        strike_smooth=rng.random() < 0.65,
        strike_hatched=rng.random() < 0.2,
        lines_in_ink=rng.random() < 0.4,
        lines_over=rng.random() < 0.7,
        smooth_lines=rng.random() < 0.5,
        wave=_maybe(rng, 0.4 * d, 0.05, 0.75),
        wave_length=rng.triangular(0.5, 5.0, 1.2),
        ripple=_maybe(rng, 0.16 * d, 0.005, 0.03),
        bend=_maybe(rng, 0.16 * d, 0.02, 0.08),
        swirl=_maybe(rng, 0.05 * d, -0.5, 0.5),
        lens=_maybe(rng, 0.08 * d, 0.1, 0.4),
        scatter=_maybe(rng, 0.08 * d, 0.01, 0.035),
        jagged=rng.random() < 0.4,  # warps as most generators compute them, pixel by pixel
        warp_everything=rng.random() < 0.5,
        blur=_maybe(rng, 0.22 * d, 0.005, 0.022),
        noise=grain * _maybe(rng, 0.22 * d, 2, 22),
        specks=_maybe(rng, 0.12 * d, 0.002, 0.05),
        low_resolution=_maybe(rng, 0.25 * d, 0.45, 0.85),
        palette=rng.choice((4, 8, 16, 32, 128)) if rng.random() < 0.12 * d else 0,
        jpeg=rng.randint(35, 92) if rng.random() < 0.45 else 0,
        border=rng.random() < 0.12 * d,
        letterbox=_maybe(rng, (0.25 if small else 0.02) * d, 0.08, 0.25),
        filter=rng.choices(("", "invert", "edges", "emboss"), (30, 1.2 * d, 0.4 * d, 0.4 * d))[0],
        fade=_maybe(rng, 0.1 * d, 0.2, 0.65),
        aliased=rng.random() < 0.12 * d,
    )
    return _of_few_traits(rng, style)
