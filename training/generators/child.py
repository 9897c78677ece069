"""Process that draws with a Python library: a request a line in, a drawing a line out.

Run by `processes.py`, with the library's folder on `PYTHONPATH`: two libraries share a module
name, so each needs a process of its own.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import random
import sys
from typing import Any

from training.generators.drawing import Settings


def main() -> None:
    """Answer requests until standard input closes."""
    driver = importlib.import_module(f"training.generators.drivers.{sys.argv[1]}")
    # Libraries print warnings: standard output is for replies alone.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        random.seed(request["seed"])
        replies.write(json.dumps(_reply(driver, request["settings"])) + "\n")
        replies.flush()


def _reply(driver: Any, settings: Settings) -> dict[str, str]:
    try:
        drawing = driver.draw(settings)
    except ImportError:
        raise
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {
        "image": base64.b64encode(drawing.image).decode(),
        "label": drawing.label,
        "kind": drawing.kind,
        "expression": drawing.expression,
    }


if __name__ == "__main__":
    main()
