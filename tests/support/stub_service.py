"""A scripted HTTP service on a free loopback port, for tests of the clients."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """One request as it arrived; `connection` differs between connections."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


# Status, body and, where they matter, further headers.
Reply = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]
Script = Callable[[Call], Reply]


class _Server(ThreadingHTTPServer):
    """Has room for many clients that connect at once; with the usual five some are reset."""

    request_queue_size = 128


@contextmanager
def stub_service(script: Script, *, hang_up_after_reply: bool = False) -> Iterator[str]:
    """Serve `script`, which turns a call into a reply; yield the URL.

    Args:
        script: Answers each call; runs in the connection's thread.
        hang_up_after_reply: Close each connection after one reply without having said so.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            call = Call(
                self.command,
                self.path,
                dict(self.headers.items()),
                self.rfile.read(length),
                self.client_address[1],
            )
            status, body, *more = script(call)
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = hang_up_after_reply

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
