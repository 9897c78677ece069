"""How many kernels torch keeps for the CPU.

Responsible for: the limits of two caches that torch reads from the environment. Invariant: what
somebody has set there stays. No torch here: it reads the limits when it is imported.

For each shape that a layer meets, torch's bridge to oneDNN and oneDNN itself keep a kernel, up to
1,024 each by default and half a MiB apiece. Captchas of one size need a few dozen; images of any
size and batches of any composition filled both, 0.7 GiB, and read no faster for it.
"""

from __future__ import annotations

from qwen_captcha.settings import set_unset_variables

LIMITS = {"LRU_CACHE_CAPACITY": "64", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256"}


def limit_kernel_caches() -> None:
    """Set the limits; it has no effect on a process that has imported torch."""
    set_unset_variables(LIMITS)
