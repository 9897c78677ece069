"""nginx with the project's configuration in front of local instances, as a child process.

Only the address to listen on and the instances are replaced in `deploy/nginx.conf`.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evaluation.services.service_process import (
    PROJECT,
    end_process,
    free_port,
)

NGINX_CONFIGURATION = PROJECT / "deploy" / "nginx.conf"
INSTANCES = PROJECT / "deploy" / "instances.conf"
LISTEN = "listen 8080 default_server;"
SERVERS = "    server 127.0.0.1:5001 max_fails=0;\n    server 127.0.0.1:5002 max_fails=0;\n"
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 10.0


class NginxStartError(Exception):
    """There is no nginx, or it did not start; the message has the reason."""


@contextmanager
def running_nginx(ports: Sequence[int]) -> Iterator[int]:
    """Run nginx in front of instances on loopback ports; yield the port that it listens on.

    Raises:
        NginxStartError: nginx is not installed or did not start.
    """
    if shutil.which("nginx") is None:
        raise NginxStartError("nginx is not installed: apt-get install nginx.")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        write_configuration(Path(folder), port, ports)
        process = subprocess.Popen(
            ["nginx", "-p", folder, "-c", f"{folder}/nginx.conf"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            if not _listens(process, port):
                log.seek(0)
                raise NginxStartError(f"nginx did not start: {log.read().decode()}")
            yield port
        finally:
            end_process(process, STOP_TIMEOUT_S)


def write_configuration(folder: Path, port: int, instances: Sequence[int]) -> None:
    """Write the configuration for a port and for instances on loopback ports."""
    folder.chmod(0o755)  # nginx started by root runs its workers as another user.
    text = NGINX_CONFIGURATION.read_text(encoding="utf-8")
    text = _replaced(text, LISTEN, f"listen 127.0.0.1:{port} default_server;")
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    servers = "".join(f"    server 127.0.0.1:{number} max_fails=0;\n" for number in instances)
    text = _replaced(INSTANCES.read_text(encoding="utf-8"), SERVERS, servers)
    (folder / "instances.conf").write_text(text, encoding="utf-8")


def _replaced(text: str, old: str, new: str) -> str:
    """Return a text with its one occurrence of `old` replaced."""
    if text.count(old) != 1:
        raise NginxStartError(f"The configuration must contain {old.strip()!r} exactly once.")
    return text.replace(old, new)


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False
