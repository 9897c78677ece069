from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from qwen_captcha.backends.qwen2vl.pytorch.backend import LIMITS

pytestmark = pytest.mark.live

MEMORY_OF_MANY_SHAPES = """
import sys
from qwen_captcha.backends.qwen2vl.pytorch.backend import limit_kernel_caches
limit_kernel_caches()
assert "torch" not in sys.modules
import psutil
import torch

weight = torch.ops.mkldnn._reorder_linear_weight(torch.zeros(64, 64))
def multiply(rows):
    torch.ops.mkldnn._linear_pointwise(torch.zeros(rows, 64), weight, None, "none", [], "")

with torch.inference_mode():
    for rows in range(1, 300):
        multiply(rows)
    before = psutil.Process().memory_info().rss
    for rows in range(300, 1300):
        multiply(rows)
print((psutil.Process().memory_info().rss - before) // 2**20)
"""


def grown_mib(**environment: str) -> int:
    command = [sys.executable, "-c", MEMORY_OF_MANY_SHAPES]
    inherited = {name: value for name, value in os.environ.items() if name not in LIMITS}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**inherited, **environment}
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="another oneDNN")
def test_many_shapes_take_little_memory_unless_more_is_allowed() -> None:
    assert grown_mib() < 130
    assert grown_mib(**dict.fromkeys(LIMITS, "1024")) > 200
