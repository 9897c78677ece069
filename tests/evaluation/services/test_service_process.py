from __future__ import annotations

import os
import select
import socket
import sys
import textwrap
from pathlib import Path

import pytest

from evaluation.services.client import ServiceClient, ServiceError
from evaluation.services.service_process import (
    ServiceStartError,
    free_port,
    running_service,
)

pytestmark = pytest.mark.live

# Answers 503 once, then 200 with the environment's MARK and the numbers of its two processes.
SERVICE = """
    import http.server, json, os, signal, subprocess, sys
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    replies = iter([503])
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            body = json.dumps({"mark": os.environ["MARK"], "child": child.pid}).encode()
            self.send_response(next(replies, 200))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
    def leave(*_):
        child.kill()
        child.wait()
        os._exit(0)
    signal.signal(signal.SIGTERM, leave if os.environ["MARK"] != "deaf" else signal.SIG_IGN)
    http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def script(tmp_path: Path, source: str) -> tuple[str, ...]:
    path = tmp_path / "service.py"
    path.write_text(textwrap.dedent(source))
    return sys.executable, str(path)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that waits to be collected does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_service_is_ready_inside_and_gone_outside(tmp_path: Path) -> None:
    with running_service({"MARK": "here"}, command=script(tmp_path, SERVICE)) as service:
        assert service.health["mark"] == "here"
        assert service.start_to_ready_s > 0
        assert is_alive(service.pid)
        with ServiceClient(service.url) as client:
            assert client.health().status == 200
    assert not is_alive(service.pid)
    with ServiceClient(service.url) as client, pytest.raises(ServiceError, match="not answer"):
        client.health()


def test_an_error_inside_stops_the_service_too(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        running_service({"MARK": "here"}, command=script(tmp_path, SERVICE)) as service,
    ):
        raise ZeroDivisionError
    assert not is_alive(service.pid)


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    command = script(tmp_path, SERVICE)
    with running_service({"MARK": "deaf"}, command=command, stop_timeout_s=0.1) as service:
        child = service.health["child"]
        assert isinstance(child, int)
        child_process = os.pidfd_open(child)
    assert not is_alive(service.pid)
    # It is no child of this process any more; the kernel ends it in its own time. Readable means
    # ended.
    assert select.select([child_process], [], [], 10.0)[0] == [child_process]
    os.close(child_process)


def test_a_process_that_ends_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    source = "print('\\n'.join(map(str, range(50)))); raise SystemExit('no such checkpoint')"
    with (
        pytest.raises(ServiceStartError) as raised,
        running_service({}, command=script(tmp_path, source)),
    ):
        pytest.fail("it cannot be ready")
    lines = str(raised.value).splitlines()
    assert lines[0] == "The service ended with status 1. Its last lines:"
    assert "no such checkpoint" in lines[1:]
    assert len(lines) == 16


def test_a_process_that_is_never_ready_is_stopped(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    command = ("/bin/sh", "-c", f"echo $$ > {pid_file}; exec sleep 1000")
    with (
        pytest.raises(ServiceStartError, match="did not become ready in time"),
        running_service({}, command=command, ready_timeout_s=0.5),
    ):
        pytest.fail("it cannot be ready")
    assert not is_alive(int(pid_file.read_text()))


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1] > 0
