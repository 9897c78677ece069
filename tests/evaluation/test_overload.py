"""Ten times the capacity, in short: a backend that takes 100 ms an image."""

from __future__ import annotations

import pytest

from evaluation.overload import Caller, Tally, checks_of, percentile
from tests.support.fake_backend import image_bytes
from tests.support.live_server import gunicorn_command, running

pytestmark = pytest.mark.live

IMAGES = [image_bytes(width) for width in range(200, 220)]


def test_requests_over_capacity_are_rejected_at_once_and_the_others_answered() -> None:
    steady = gunicorn_command("tests.support.fake_backend:create_steady_app()")
    with running(steady, CACHE_SIZE="0", MAX_QUEUE_SIZE="16", MAX_BATCH_IMAGES="16",
                 MAX_BATCH_SIZE="1") as server:  # fmt: skip
        server.wait_until_ready()
        caller = Caller(f"http://127.0.0.1:{server.port}", IMAGES)
        caller.learn()
        assert caller.own[0] == "w200"
        unloaded = caller.capacity(1.0)
        tally = caller.overload(10 * unloaded, 2.0)
    assert (tally.swapped, tally.changed, tally.others) == (0, 0, [])
    assert len(tally.rejections_s) > len(tally.answers_s) > 0
    # Of a machine that others use, only orders of magnitude can be asked for.
    assert percentile(tally.rejections_s, 0.5) < 0.5
    assert max(tally.answers_s) < 8
    assert tally.throughput > unloaded / 2


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, set()),
        ({"rejections_s": [0.01, 0.2]}, {"rejections, 99th percentile"}),
        ({"rejections_s": []}, {"rejections, 99th percentile"}),
        ({"answers_s": [9.0] * 10}, {"slowest answer"}),
        ({"seconds": 2.0}, {"answers a second, of the unloaded"}),
        ({"probes_s": [0.2]}, {"probes, 99th percentile"}),
        ({"probes_s": []}, {"probes, 99th percentile"}),
        ({"swapped": 1}, {"answers that are another image's"}),
        ({"others": ["504 deadline_exceeded"]}, {"other replies"}),
    ],
)
def test_a_failed_check_is_named(change: dict[str, object], broken: set[str]) -> None:
    good = {
        "answers_s": [1.0] * 12,
        "rejections_s": [0.01],
        "probes_s": [0.01],
        "seconds": 1.0,
        "in_time": 10,
    }
    checks = checks_of(Tally(**{**good, **change}), unloaded=10.0)
    assert {name for name, (_, holds) in checks.items() if not holds} == broken
