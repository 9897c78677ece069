"""The service where the system gives it little: descriptors, a home, a place to write."""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
from gunicorn.workers.gthread import ThreadWorker

from qwen_captcha.server import worker as worker_module
from qwen_captcha.server.worker import JsonThreadWorker
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    MAX_WAIT_S,
    Server,
    gunicorn_command,
    parse_reply,
    receive_all,
    running,
)

QUICK = gunicorn_command("tests.support.fake_backend:create_quick_app()")
IMAGE = image_bytes(120)
REQUEST = (
    b"POST /ocr HTTP/1.1\r\nHost: captcha\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(IMAGE), IMAGE)
)
DESCRIPTORS = 64


def read(server: Server) -> str:
    with socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S) as connection:
        connection.sendall(REQUEST)
        reply, _ = parse_reply(receive_all(connection))
    assert reply.status == 200
    return str(reply.json["text"])


@pytest.mark.live
def test_more_connections_than_descriptors_stop_nothing() -> None:
    limited = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", *QUICK)
    with running(limited) as server:
        server.wait_until_ready()
        with ExitStack() as stack:
            for _ in range(2 * DESCRIPTORS):
                stack.enter_context(
                    socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S)
                )
        assert read(server) == "w120"
        assert not [line for line in server.lines if "Traceback" in line or "ERROR" in line]


@pytest.mark.live
def test_the_descriptor_limit_is_raised_to_the_maximum() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    with running(("prlimit", f"--nofile=256:{hard}", *QUICK)) as server:
        server.wait_until_ready()
        soft, _ = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        assert soft == wanted


@pytest.mark.live
@pytest.mark.parametrize("home", ["", "/nowhere"])
def test_no_home_is_needed(home: str) -> None:
    command = ("env", "-u", "HOME", *QUICK) if not home else QUICK
    with running(command, **({"HOME": home} if home else {})) as server:
        server.wait_until_ready()
        assert read(server) == "w120"


@pytest.mark.live
def test_the_bundled_checkpoint_is_served_from_a_folder_that_cannot_be_written(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    variables = {"QWEN_MODEL": "", "USE_GPU": "false", "HF_HOME": str(cache), "HOME": "/nowhere"}
    with running(gunicorn_command("qwen_captcha_service:create_app()"), **variables) as server:
        server.wait_until_ready()
        with socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S) as connection:
            connection.sendall(REQUEST)
            reply, _ = parse_reply(receive_all(connection))
    assert reply.status == 200
    assert os.listdir(cache) == []


@pytest.mark.parametrize(("number", "lets_go"), [(errno.EMFILE, True), (errno.EBADF, False)])
def test_a_connection_without_a_descriptor_waits(
    monkeypatch: pytest.MonkeyPatch, number: int, lets_go: bool
) -> None:
    def accept(worker: ThreadWorker, listener: socket.socket) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(ThreadWorker, "accept", accept)
    monkeypatch.setattr(worker_module, "NO_DESCRIPTOR_S", 0.0)
    worker = JsonThreadWorker.__new__(JsonThreadWorker)
    worker.nr_conns, worker.worker_connections = 0, 1
    with (
        socket.socket() as listener,
        nullcontext() if lets_go else pytest.raises(OSError, match="no"),
    ):
        worker.accept(listener)
        assert lets_go


@pytest.mark.parametrize(
    ("waiting", "free", "accepted"),
    [(0, 9, 0), (1, 9, 1), (5, 9, 5), (9, 5, 5), (100, 200, worker_module.MAX_ACCEPTED)],
    ids=["none", "one", "several", "more than the limit", "more than in one pass"],
)
def test_the_waiting_connections_are_accepted_in_one_pass(
    monkeypatch: pytest.MonkeyPatch, waiting: int, free: int, accepted: int
) -> None:
    def accept(worker: ThreadWorker, listener: socket.socket) -> None:
        worker.nr_conns += worker.nr_conns < waiting

    monkeypatch.setattr(ThreadWorker, "accept", accept)
    worker = JsonThreadWorker.__new__(JsonThreadWorker)
    worker.nr_conns, worker.worker_connections = 0, free
    with socket.socket() as listener:
        worker.accept(listener)
    assert worker.nr_conns == accepted


def test_the_loop_pauses_after_a_pass_that_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(ThreadWorker, "wait_for_and_dispatch_events", lambda *_: None)
    monkeypatch.setattr("qwen_captcha.server.worker.time.sleep", pauses.append)
    worker = JsonThreadWorker.__new__(JsonThreadWorker)
    worker.wait_for_and_dispatch_events(1.0)
    worker._has_rejected = True
    worker.wait_for_and_dispatch_events(1.0)
    worker.wait_for_and_dispatch_events(1.0)
    assert pauses == [worker_module.REJECTION_PAUSE_S]
