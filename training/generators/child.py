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


def main() -> None:
    """Answer requests until standard input closes."""
    driver = importlib.import_module(f"training.generators.drivers.{sys.argv[1]}")
    # Libraries print warnings: standard output is for replies alone.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        random.seed(request["seed"])
        drawing = driver.draw(request["settings"])
        reply = {
            "image": base64.b64encode(drawing.image).decode(),
            "label": drawing.label,
            "kind": drawing.kind,
            "expression": drawing.expression,
        }
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
