"""All libraries and families, by name."""

from __future__ import annotations

import importlib

from training.generators.drawing import Family
from training.generators.libraries import Library

# In the order in which `--list` shows them.
_DRIVERS = (
    "multicolorcaptcha",
    "captcha",
    "django_simple_captcha",
    "svg_captcha",
    "gregwar",
    "captcha_canvas",
    "captchapng",
    "captchapng2",
    "simple_captcha2",
    "captchagen",
    "captchagenerator",
    "react_captcha_code",
)


def catalogue() -> dict[str, tuple[Library, Family]]:
    """Return each family with its library, by the family's name."""
    found: dict[str, tuple[Library, Family]] = {}
    for driver in _DRIVERS:
        module = importlib.import_module(f"training.generators.drivers.{driver}")
        for family in module.FAMILIES:
            found[family.name] = (module.LIBRARY, family)
    return found


def libraries() -> dict[str, Library]:
    """Return each library by its name."""
    return {library.name: library for library, _ in catalogue().values()}
