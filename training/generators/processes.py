"""Drawing in another process: a line of JSON for each request and for each reply.

A request is `{"seed": …, "settings": {…}}`, a reply
`{"image": base64, "label": …, "kind": …, "expression": …}`; `kind` may be missing for a text.
The reply `{"error": …}` means that the library failed at these settings, as some do with some
typefaces.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from training.generators.drawing import Drawing, Family, kind_of
from training.generators.libraries import Library, LibraryMissing

# A library that fails more often is broken.
_MAX_FAILURES = 5
_MAX_FAILED_SHARE = 0.1


class DrawingFailed(RuntimeError):
    """The process that draws ended, or failed at too many images."""


def draw(
    library: Library, family: Family, images: int, seed: int, folder: Path
) -> Iterator[Drawing]:
    """Yield drawings of a family.

    Args:
        library: The library of the family.
        family: The rule that picks settings.
        images: Number of drawings.
        seed: Image `i` depends on this, on the family's name and on `i`.  An image at which the
            library fails is left out; the next one takes its place.
        folder: Folder of all libraries.

    Raises:
        LibraryMissing: The library is not installed.
        DrawingFailed: The process that draws failed.
    """
    if not library.is_installed(folder):
        raise LibraryMissing(
            f"{library.name} is not installed in {folder}: "
            f"run python -m training.generators --install {library.name}"
        )
    process = subprocess.Popen(
        library.command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=library.environment(folder),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    drawn = failed = 0
    try:
        while drawn < images:
            rng = random.Random(f"{seed}/{family.name}/{drawn + failed}")
            request = {"settings": family.settings(rng), "seed": rng.getrandbits(31)}
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                raise DrawingFailed(_ended(library, process, request)) from None
            line = process.stdout.readline()
            if not line:
                raise DrawingFailed(_ended(library, process, request))
            reply = json.loads(line)
            if "error" in reply:
                failed += 1
                if failed > _MAX_FAILURES + drawn * _MAX_FAILED_SHARE:
                    raise DrawingFailed(
                        f"{library.name} failed at {failed} of {drawn + failed} images, "
                        f"at last with {reply['error']!r} at {json.dumps(request)}"
                    )
                continue
            drawn += 1
            yield Drawing(
                image=base64.b64decode(reply["image"]),
                label=reply["label"],
                kind=reply.get("kind") or kind_of(reply["label"]),
                expression=reply.get("expression") or "",
            )
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()


def _ended(library: Library, process: subprocess.Popen[str], request: object) -> str:
    code = process.wait()
    return f"the process of {library.name} ended with status {code} at {json.dumps(request)}"
