"""The long run in short: a few hundred mixed requests against a backend without a model."""

from __future__ import annotations

import pytest

from evaluation.soak import (
    Run,
    State,
    checks_of,
    mixed_images,
    run_soak,
)
from tests.support.live_server import gunicorn_command, running

pytestmark = pytest.mark.live

COUNT = 500


def test_nothing_grows_in_a_short_run() -> None:
    with running(
        gunicorn_command("tests.support.fake_backend:create_quick_app()"), CACHE_SIZE="0"
    ) as server:
        server.wait_until_ready()
        url = f"http://127.0.0.1:{server.port}"
        run = run_soak(url, server.process.pid, mixed_images(40), COUNT)
    checks = checks_of(run)
    assert len(run.latencies_s) == COUNT
    for name in ("memory", "descriptors", "threads", "faults"):
        assert checks[name][1], checks


@pytest.mark.parametrize(
    ("last", "late_s", "broken"),
    [
        (State(100, 10, 5), 0.01, set()),
        (State(106, 10, 5), 0.01, {"memory"}),
        (State(100, 20, 5), 0.01, {"descriptors"}),
        (State(100, 10, 15), 0.01, {"threads"}),
        (State(100, 10, 5), 0.02, {"median latency"}),
    ],
)
def test_growing_metrics_are_named(last: State, late_s: float, broken: set[str]) -> None:
    run = Run([0.01] * 90 + [late_s] * 10, [], {10: State(100, 10, 5), 100: last})
    assert {name for name, (_, holds) in checks_of(run).items() if not holds} == broken
