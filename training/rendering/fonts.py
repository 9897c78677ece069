"""The typefaces of the renderer: names, licences, and where they are installed.

`fonts.json` has, for each Debian package, the licence, the faces, those without lower case or with
wrong signs, and whether the package is held out. Fonts are not shipped; `make fonts` installs the
packages. Held-out packages, and faces made from theirs, are never used for training.

Licences are those of the faces, as SPDX expressions; packaging is left out. aenigma's author
permits copying, changing and redistributing the faces that name him.

A face of a collection is written with its number in it: `NotoSansCJK-Bold.ttc#2`.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NotRequired, TypedDict

from PIL import ImageFont

FONT_ROOT = Path("/usr/share/fonts")
_TABLE = Path(__file__).with_name("fonts.json")


class FontsMissingError(Exception):
    """No face of `fonts.json` is installed; the message has the command that installs them."""


class _Package(TypedDict):
    licence: str
    latin: list[str]
    hanzi: list[str]
    capitals_only: NotRequired[list[str]]
    wrong: NotRequired[dict[str, str]]
    held_out: bool


def package_table() -> dict[str, _Package]:
    """Return Debian package name -> licence, faces under `FONT_ROOT`, held out or not."""
    table: dict[str, _Package] = json.loads(_TABLE.read_text(encoding="utf-8"))
    return table


@dataclass(frozen=True)
class FontLibrary:
    """Installed faces by script, grouped by package so that large packages do not dominate."""

    latin: tuple[tuple[str, ...], ...]
    hanzi: tuple[tuple[str, ...], ...]

    @classmethod
    def open(cls, *, held_out: bool = False, root: Path = FONT_ROOT) -> FontLibrary:
        """Collect the installed faces.

        Args:
            held_out: Take only the packages kept for validation, or only the others.
            root: Folder that the table's paths start from.

        Raises:
            FontsMissingError: None of them is installed.
        """
        groups: dict[str, list[tuple[str, ...]]] = {"latin": [], "hanzi": []}
        for package in package_table().values():
            if package["held_out"] != held_out:
                continue
            for script, faces in (("latin", package["latin"]), ("hanzi", package["hanzi"])):
                present = tuple(str(root / face) for face in faces if _file(root / face).is_file())
                if present:
                    groups[script].append(present)
        if not groups["latin"]:
            raise FontsMissingError(
                f"none of the fonts in training/rendering/fonts.json is under {root}: "
                "run `make fonts`"
            )
        return cls(tuple(groups["latin"]), tuple(groups["hanzi"]))

    def choose(self, rng: random.Random, *, hanzi: bool) -> str:
        """Return the path of a face; packages weigh by the square root of their size."""
        groups = self.hanzi if hanzi else self.latin
        if not groups:
            raise FontsMissingError("no Chinese font is installed: run `make fonts`")
        (group,) = rng.choices(groups, weights=[len(faces) ** 0.5 for faces in groups])
        return rng.choice(group)


def _file(face: Path) -> Path:
    """Return the file that a face is in."""
    return face.with_name(face.name.partition("#")[0])


@lru_cache(maxsize=512)
def open_face(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the face at `size` pixels per em; cached per process."""
    file, _, number = path.partition("#")
    return ImageFont.truetype(file, size, index=int(number or 0))


@lru_cache(maxsize=1)
def _capitals_only() -> frozenset[str]:
    """Return the names of the files whose small letters are capitals."""
    lists = [package.get("capitals_only", []) for package in package_table().values()]
    return frozenset(Path(face).name for faces in lists for face in faces)


@lru_cache(maxsize=1)
def _wrong() -> dict[str, str]:
    """Return the names of files -> characters in whose place they have others."""
    tables = [package.get("wrong", {}) for package in package_table().values()]
    return {Path(face).name: signs for table in tables for face, signs in table.items()}


@lru_cache(maxsize=65536)
def draws(path: str, character: str) -> bool:
    """Return whether the face has a glyph of its own for `character`, in its case."""
    if character.isspace():
        return True
    if character.islower() and Path(path).name in _capitals_only():
        return False
    if character in _wrong().get(Path(path).name, ""):
        return False
    mask = open_face(path, 24).getmask(character)
    return any(mask) and bytes(mask) != bytes(open_face(path, 24).getmask("\uffff"))
