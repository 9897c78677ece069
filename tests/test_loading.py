from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qwen_captcha.backends import loading


@pytest.fixture(autouse=True)
def _same_threads_afterwards() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("torch_threads", "cores", "workers", "threads"),
    [(8, 4, 1, 4), (8, 4, 2, 2), (8, 5, 2, 2), (8, 2, 4, 1), (1, 8, 2, 1)],
    ids=["quota", "two workers", "odd cores", "more workers than cores", "chosen by the user"],
)
def test_a_worker_takes_its_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, torch_threads: int, cores: int, workers: int, threads: int
) -> None:
    torch.set_num_threads(torch_threads)
    monkeypatch.setattr(loading, "usable_cores", lambda: cores)
    assert loading.use_available_cores(workers) == threads
    assert torch.get_num_threads() == threads
