from __future__ import annotations

import shutil
from collections import Counter

import pytest

from evaluation import failover, graceful_shutdown
from evaluation.services.client import ServiceClient
from tests.support.live_server import gunicorn_command
from tests.support.stub_service import stub_service

pytestmark = pytest.mark.live

QUICK = gunicorn_command("tests.support.fake_backend:create_quick_app()")
ENVIRONMENT = {"HOST": "127.0.0.1", "CACHE_SIZE": "0", "PYTHONPATH": "."}


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_killing_and_restarting_an_instance_fails_no_request() -> None:
    tally, seen = failover.measure(200, QUICK, ENVIRONMENT)
    assert set(tally.outcomes) == {"answered"}
    assert tally.outcomes.total() >= 200
    assert set(tally.phases) == {"both up", "one killed", "one loading", "both up again"}
    assert tally.slowest_s < failover.GO_TIMEOUT_S
    too_large, down = seen
    assert "413 {'success': False" in too_large
    assert "502 {'success': False" in down


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ((200, b'{"success":true,"text":"a","confidence":1.0}'), "answered"),
        ((200, b'{"success":true,"text":"b","confidence":1.0}'), "wrong answer"),
        ((503, b'{"error_type":"queue_full"}'), "503 queue_full"),
        ((200, b"<html>"), "not a JSON object"),
    ],
    ids=["right", "wrong", "refused", "no JSON"],
)
def test_a_request_is_answered_only_with_the_right_text(
    reply: tuple[int, bytes], outcome: str
) -> None:
    with stub_service(lambda call: reply) as url, ServiceClient(url) as client:
        assert outcome in failover._outcome(client, b"image", "a")


@pytest.mark.parametrize("workers", [1, 2])
def test_no_request_is_lost_when_the_service_stops(workers: int) -> None:
    environment = {**ENVIRONMENT, "WORKERS": str(workers)}
    outcomes, stopped_s, status = graceful_shutdown.measure(QUICK, environment, load_s=0.3)
    known = {"200 answered", "503 draining", "503 model_loading", graceful_shutdown.TURNED_AWAY}
    assert set(outcomes) <= known
    assert outcomes["200 answered"] > 0
    assert outcomes[graceful_shutdown.TURNED_AWAY] == graceful_shutdown.CLIENTS
    assert stopped_s < graceful_shutdown.BUDGET_S
    assert status == 0


def test_a_reply_without_the_error_object_counts_as_lost() -> None:
    with stub_service(lambda call: (200, b"[]")) as url:
        outcomes = Counter([graceful_shutdown.one_request(int(url.rsplit(":", 1)[1]), b"image")])
    assert outcomes == {"lost: no object": 1}
    assert graceful_shutdown.one_request(0, b"image") == "turned away"
