"""gunicorn's threaded worker with JSON errors, read deadlines and a lingering close.

gunicorn exists on POSIX systems only; nothing else imports this module.
"""

from __future__ import annotations

import errno
import logging
import select
import selectors
import signal
import socket
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.http.errors import ParseException
from gunicorn.workers.gthread import TConn, ThreadWorker

from qwen_captcha.server.connection import IDLE_S, DeadlineSocket, linger
from qwen_captcha.server.error_replies import error_of, error_reply

# Pause without a free descriptor, in which another connection may close.
NO_DESCRIPTOR_S = 0.1
# Maximum connections accepted in one pass of the loop; gunicorn accepts one.
MAX_ACCEPTED = 64
# Pause after a pass that rejected requests. Rejections in bursts leave the interpreter lock to the
# model's thread in between: .8 instead of .68 of the unloaded throughput under ten times the load.
REJECTION_PAUSE_S = 0.005
# A request that is larger is not rejected by the loop that accepts connections.
PEEK_BYTES = 128 * 1024

log = logging.getLogger(__name__)


class JsonThreadWorker(ThreadWorker):  # type: ignore[misc]
    """A `gthread` worker whose own errors are JSON."""

    _has_rejected = False

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Make one pass: wait for events and handle them."""
        super().wait_for_and_dispatch_events(timeout)
        if self._has_rejected:
            self._has_rejected = False
            time.sleep(REJECTION_PAUSE_S)

    def accept(self, listener: socket.socket) -> None:
        """Accept the waiting connections, or pause where no file descriptor is free for one."""
        try:
            for _ in range(min(MAX_ACCEPTED, self.worker_connections - self.nr_conns)):
                before = self.nr_conns
                super().accept(listener)
                if self.nr_conns == before:
                    return  # no other one waits
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            log.warning(
                "No file descriptor is free for another connection: raise the limit of open files "
                "(ulimit -n)."
            )
            time.sleep(NO_DESCRIPTOR_S)

    def enqueue_req(self, conn: TConn) -> None:
        """Pass the next request of a connection to a thread, once its first bytes have arrived."""
        if not isinstance(conn.sock, DeadlineSocket):
            conn.sock = DeadlineSocket(fileno=conn.sock.detach())
        conn.sock.expect_request()
        if self.alive and not conn.initialized and not conn.data_ready:
            conn.sock.setblocking(False)
            conn.timeout = time.monotonic() + IDLE_S
            self.pending_conns.append(conn)
            callback = partial(self.on_pending_socket_readable, conn)
            self.poller.register(conn.sock, selectors.EVENT_READ, callback)
            return
        if not (self.alive and self._reject(conn)):
            super().enqueue_req(conn)

    def _reject(self, conn: TConn) -> bool:
        """Reject the request that has arrived if the load requires it; return whether it does."""
        shedding = self.wsgi.extensions["load_shedding"]
        error = shedding.rejection()
        if error is None or (conn.initialized and conn.parser.unreader.buf.getvalue()):
            return False
        try:
            request = conn.sock.recv(PEEK_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return False
        headers = shedding.reject(request, error)
        if headers is None:
            return False
        reply = error_reply(error.status, error.error_type, error.message, headers)
        self._has_rejected = True
        conn.init()
        finished: Future[bool] = Future()
        try:
            conn.sock.recv(len(request))
            finished.set_result(conn.sock.send(reply, socket.MSG_DONTWAIT) == len(reply))
        except OSError as failure:
            finished.set_exception(failure)
        self.finish_request(conn, finished)
        return True

    def handle(self, conn: TConn) -> object:
        """Serve one request of a connection; called by a thread of the pool."""
        outcome = super().handle(conn)
        with suppress(OSError):
            conn.sock.flush()
        if outcome is False:
            linger(conn.sock)
        return outcome

    def handle_request(self, req: Any, conn: TConn) -> object:
        """Serve one request whose head is read."""
        req.body.reader = _BodyReader(req.body.reader)
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer a request that failed before or outside of the application."""
        status, error_type, sentence = error_of(exc)
        if status == 500:
            log.error("gunicorn failed on a request.", exc_info=exc)
        else:
            log.debug("Rejected with %d: %s", status, exc)
        with suppress(OSError):
            client.sendall(error_reply(status, error_type, sentence))

    def set_accept_enabled(self, enabled: bool) -> None:
        """Start or stop accepting connections; a worker that stops closes its listeners.

        Clients would connect to an open listener, and wait for a reply until the process ends.
        """
        super().set_accept_enabled(enabled)
        service = self.wsgi.extensions["captcha_service"]
        if enabled or self.alive or service.draining:
            return
        service.begin_drain()
        log.info(
            "Draining: new requests are rejected; accepted ones have %d s.",
            self.cfg.graceful_timeout,
        )
        for listener in self.sockets:
            # Accept clients that have connected already, so that they get a reply.
            with suppress(OSError):
                while select.select([listener], [], [], 0)[0]:
                    super().accept(listener)
            listener.close()
        self.sockets: list[socket.socket] = []

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Stop at once on SIGQUIT.

        Ctrl+C in a terminal is a SIGINT to all processes, and the main one then sends SIGQUIT: a
        worker that handled both would be interrupted while it stops.
        """
        if sig == signal.SIGQUIT:
            super().handle_quit(sig, frame)


class ServiceLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger, which writes to the log of the service."""

    def setup(self, cfg: Any) -> None:
        """Set gunicorn's level; `logs.py` sets the format and the destination."""
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True


class _BodyReader:
    """A reader of a request body that raises OSError for malformed data, as WSGI expects."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; raises OSError where the body is malformed."""
        try:
            data: bytes = self._reader.read(size)
        except ParseException as error:
            raise OSError("malformed request body") from error
        return data
