"""A model hub on a loopback port that serves the files of one repository."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REVISION = "1" * 40


class FakeHub(ThreadingHTTPServer):
    """Serves `folder` as the main revision of `repo_id`.

    Attributes:
        served: Names of the files whose content was sent.
        withheld: Names of files that are listed and cannot be got.
    """

    daemon_threads = True

    def __init__(self, repo_id: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repo_id = repo_id
        self.folder = folder
        self.served: list[str] = []
        self.withheld: set[str] = set()

    @property
    def url(self) -> str:
        """The address, as `HF_ENDPOINT` takes it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def names(self) -> list[str]:
        """Return the paths of the files in the repository."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in files)


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self._send(with_body=False)

    def do_GET(self) -> None:
        self._send(with_body=True)

    def log_message(self, *arguments: object) -> None:
        """Stay silent."""

    def _send(self, *, with_body: bool) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        if path == f"/api/models/{hub.repo_id}/revision/main":
            siblings = [{"rfilename": name} for name in hub.names()]
            self._reply(self._json({"id": hub.repo_id, "sha": REVISION, "siblings": siblings}))
        elif path == f"/api/models/{hub.repo_id}/tree/{REVISION}":
            self._reply(self._json([self._entry(name) for name in hub.names()]))
        elif (name := path.removeprefix(f"/{hub.repo_id}/resolve/{REVISION}/")) in hub.withheld:
            self._reply(b"{}", status=404, error="EntryNotFound")
        elif name in hub.names():
            content = (hub.folder / name).read_bytes()
            if with_body:
                hub.served.append(name)
            self._reply(content, with_body=with_body)
        else:
            self._reply(b"{}", status=404, error="RepoNotFound")

    def _entry(self, name: str) -> dict[str, Any]:
        content = (self.server.folder / name).read_bytes()
        oid = hashlib.sha1(content).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def _json(self, content: object) -> bytes:
        return json.dumps(content).encode()

    def _reply(
        self, body: bytes, *, status: int = 200, with_body: bool = True, error: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def running_hub(repo_id: str, folder: Path) -> Iterator[FakeHub]:
    """Run a hub until the end of the block."""
    hub = FakeHub(repo_id, folder)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
