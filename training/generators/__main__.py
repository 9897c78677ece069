"""Draw labelled images with captcha libraries that web developers install.

Run:
    python -m training.generators --list
    python -m training.generators --install                    # all libraries
    python -m training.generators --install multicolorcaptcha
    python -m training.generators FOLDER --family multicolor_wide --images 3000 --seed 1

The last line writes FOLDER/multicolor_wide.tar.  Several families may follow `--family`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from training.generators.archive import write_archive
from training.generators.catalogue import catalogue, libraries
from training.generators.libraries import DEFAULT_FOLDER, LibraryMissing
from training.generators.processes import DrawingFailed, draw


def main(arguments: list[str] | None = None) -> int:
    """Carry out the command line and return the exit status."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.list:
        _list(parsed.libraries)
        return 0
    if parsed.install is not None:
        return _install(parsed.install, parsed.libraries)
    if parsed.folder is None or not parsed.family:
        parser.error("a folder and --family are needed, or --list, or --install")
    try:
        for name in parsed.family:
            library, family = catalogue()[name]
            drawings = draw(library, family, parsed.images, parsed.seed, parsed.libraries)
            bar = tqdm(drawings, total=parsed.images, desc=name, unit="image", disable=None)
            write_archive(parsed.folder / f"{name}.tar", bar)
    except (LibraryMissing, DrawingFailed) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.generators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, nargs="?", help="folder of the archives")
    parser.add_argument(
        "--family", nargs="+", choices=list(catalogue()), metavar="NAME", help="families to draw"
    )
    parser.add_argument("--images", type=int, default=1000, help="images of each family (1000)")
    parser.add_argument("--seed", type=int, default=0, help="other seeds, other images (0)")
    parser.add_argument(
        "--libraries", type=Path, default=DEFAULT_FOLDER, help="folder of installed libraries"
    )
    parser.add_argument("--list", action="store_true", help="list families and licences")
    parser.add_argument(
        "--install",
        nargs="*",
        choices=list(libraries()),
        metavar="LIBRARY",
        help="install libraries; all of them if none is named",
    )
    return parser


def _list(folder: Path) -> None:
    for library, family in catalogue().values():
        state = "installed" if library.is_installed(folder) else "not installed"
        print(
            f"{family.name:28} {library.name} {library.version} "
            f"({library.registry}, {library.licence}), {state}"
        )


def _install(names: list[str], folder: Path) -> int:
    failed = []
    for name in names or list(libraries()):
        try:
            libraries()[name].install(folder)
        except (subprocess.CalledProcessError, OSError) as error:
            failed.append(name)
            print(f"{name} was not installed: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
