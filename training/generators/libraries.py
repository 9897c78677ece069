"""Captcha libraries: where each comes from, its licence, and how it is installed.

Python and Node.js libraries go to one folder each under `build/generators`, at fixed versions:
two of them share a module name.  Debian packages are installed for the whole system, as root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
DRIVERS = Path(__file__).resolve().parent / "drivers"
DEFAULT_FOLDER = CHECKOUT / "build" / "generators"


class LibraryMissing(RuntimeError):
    """A family cannot be drawn, as its library is not installed."""


@dataclass(frozen=True)
class Library:
    """A captcha library of a package registry.

    Attributes:
        name: Name in the registry.
        version: Version that is installed; of a Debian package, the one that was tried.
        licence: SPDX identifier, or what the package states where that names no version of it.
        registry: `pypi`, `npm` or `debian`.
        driver: Name of the module and of the script in `drivers/`.
        requires: Further packages of the same registry, with versions where they matter.
        builds: Packages of npm that are compiled, as no prebuilt file may be had.
        debian: Debian packages that the library needs to be built or run.
        check: A file that exists once a Debian package is installed.
    """

    name: str
    version: str
    licence: str
    registry: str
    driver: str
    requires: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    check: str = ""

    def home(self, folder: Path) -> Path:
        """Return the folder of this library under the folder of all libraries."""
        return folder / self.name

    def is_installed(self, folder: Path) -> bool:
        """Return whether the library can be run."""
        if self.registry == "debian":
            return Path(self.check).exists()
        return (self.home(folder) / ".installed").exists()

    def install(self, folder: Path) -> None:
        """Install the library and what it needs.

        Raises:
            subprocess.CalledProcessError: The package client failed.
        """
        if self.debian:
            subprocess.run(
                ["apt-get", "install", "-y", "--no-install-recommends", *self.debian], check=True
            )
        if self.registry == "debian":
            return
        home = self.home(folder)
        home.mkdir(parents=True, exist_ok=True)
        separator = "==" if self.registry == "pypi" else "@"
        packages = [f"{self.name}{separator}{self.version}", *self.requires]
        if self.registry == "pypi":
            # Pillow and NumPy are the project's own.
            pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--upgrade"]
            subprocess.run([*pip, "--target", str(home), *packages], check=True)
        else:
            (home / "package.json").write_text('{"private": true}\n')
            npm = ["npm", "install", "--no-audit", "--no-fund", "--legacy-peer-deps"]
            subprocess.run([*npm, "--ignore-scripts", *packages], check=True, cwd=home)
            for package in self.builds:
                gyp = ["npx", "--yes", "node-gyp", "rebuild"]
                subprocess.run(gyp, check=True, cwd=home / "node_modules" / package)
        (home / ".installed").touch()

    def command(self) -> list[str]:
        """Return the command of the process that draws."""
        if self.registry == "pypi":
            return [sys.executable, "-m", "training.generators.child", self.driver]
        for suffix, interpreter in (("js", "node"), ("php", "php"), ("rb", "ruby")):
            script = DRIVERS / f"{self.driver}.{suffix}"
            if script.exists():
                return [interpreter, str(script)]
        raise FileNotFoundError(f"no script {self.driver} in {DRIVERS}")

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment of the process that draws."""
        home = self.home(folder)
        return os.environ | {
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(home)]),
            "PYTHONHASHSEED": "0",
            "NODE_PATH": str(home / "node_modules"),
        }
