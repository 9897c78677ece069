"""gunicorn's threaded worker, taught that every reply is JSON and that no reply gets lost.

Responsible for: which connections have a thread, which wait without one, which are rejected or
closed while there is no slot; reading a rejected upload to its end, so that its client gets the
reply instead of a connection reset; draining on SIGTERM; gunicorn's part of the log. Invariant:
every connection that is closed after a reply is drained for a bounded time, by the thread that
served it and not by the loop that accepts connections.

gunicorn exists on POSIX systems only; nothing else imports this module.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from gunicorn.glogging import Logger
from gunicorn.http import errors as http_errors
from gunicorn.workers.gthread import TConn, ThreadWorker

from qwen_captcha.server.connection import (
    IDLE_S,
    DeadlineSocket,
    linger,
)
from qwen_captcha.server.error_replies import error_of, error_reply
from qwen_captcha.server.load_shedding import LoadShedder, plain_request
from qwen_captcha.server.socket_filter import HANDSHAKE_S, drop_new_connections

# A captcha as base64 is far smaller, and looking at more bytes costs more than a thread.
MAX_PLAIN_REQUEST_BYTES = 64 * 1024
NOT_WAITING = socket.MSG_DONTWAIT

# How long a thread keeps the interpreter from the others: a fifth of Python's own, so that the loop
# which accepts and rejects gets its turn among the threads that answer a whole batch at once.
SWITCH_INTERVAL_S = 0.001
# Until a connection may have been closed.
NO_DESCRIPTOR_S = 0.1
# Exit statuses of a worker after which gunicorn stops for good.
START_FAILED = (3, 4)

log = logging.getLogger(__name__)


class _Served(threading.local):
    """The connection that a thread serves."""

    conn: TConn | None = None


class JsonThreadWorker(ThreadWorker):  # type: ignore[misc]
    """A `gthread` worker whose own errors are JSON."""

    def accept(self, listener: socket.socket) -> None:
        """Accept one connection; without a free descriptor leave it waiting for a moment."""
        if self.nr_conns + 1 >= self.worker_connections:
            self._make_room()
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            log.warning("No descriptor is free for another connection.")
            time.sleep(NO_DESCRIPTOR_S)

    def _make_room(self) -> None:
        """Close the connection that has been silent for longest, so that new ones find a slot.

        One that never sent anything if there is any, else one that is kept alive.
        """
        for idle in (self.pending_conns, self.keepalived_conns):
            if idle:
                self._close(idle.popleft())
                return

    def _close(self, conn: TConn) -> None:
        with contextlib.suppress(KeyError):  # Between two requests it is not registered.
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()

    def load_wsgi(self) -> None:
        """Load the application, and what rejects in its stead while it has no slot."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        super().load_wsgi()
        self.service = self.wsgi.extensions["captcha_service"]
        self.load_shedder = LoadShedder(self.service.metrics)
        # Connections whose request was given to a thread that has no slot for it yet. Without them
        # the queue looks empty after each batch, until its threads come to fill it.
        self.dispatched: set[TConn] = set()
        self.served = _Served()
        self.service.queue.on_reserve(self._not_dispatched)

    def enqueue_req(self, conn: TConn) -> None:
        """Have a thread serve the next request of a connection; called by the main loop.

        A connection that is silent waits in that loop, without a thread. While there is no slot
        for another image, plain requests are rejected here and now.
        """
        if not isinstance(conn.sock, DeadlineSocket):
            conn.sock = DeadlineSocket(conn.sock, self._not_dispatched)
        conn.sock.expect_request()
        if self.alive and not conn.initialized and not conn.data_ready:
            self._await_request(conn)
            return
        rejected = self._reject(conn)
        if rejected:
            conn.set_timeout()
            self.keepalived_conns.append(conn)
            self._register(conn, self.on_client_socket_readable)
        if rejected is not None:
            return
        self.dispatched.add(conn)
        super().enqueue_req(conn)

    def on_client_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """Serve the next request of a kept-alive connection; called by the main loop.

        A connection that is rejected stays where it is: the calls into the kernel that take it out
        and put it back would be half of the cost.
        """
        if client.fileno() < 0:
            return  # It made room for a new one in this same round of events.
        rejected = self._reject(conn)
        if rejected is not None:
            self.keepalived_conns.remove(conn)
            if rejected:
                conn.set_timeout()
                self.keepalived_conns.append(conn)
            return
        super().on_client_socket_readable(conn, client)

    def on_pending_socket_readable(self, conn: TConn, client: socket.socket) -> None:
        """Serve the first request of a connection; called by the main loop."""
        if client.fileno() >= 0:  # It may have made room for a new one in this round of events.
            super().on_pending_socket_readable(conn, client)

    def _not_dispatched(self) -> None:
        """Note that a request has its slots, or waits for its client; called by its thread.

        The thread that tries a broken model reserves a slot, too, and serves no connection.
        """
        if self.served.conn is not None:
            self.dispatched.discard(self.served.conn)

    def _await_request(self, conn: TConn) -> None:
        """Have the main loop wait for the first bytes of a new connection."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + IDLE_S
        self.pending_conns.append(conn)
        self._register(conn, self.on_pending_socket_readable)

    def _register(self, conn: TConn, callback: Callable[[TConn, socket.socket], None]) -> None:
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(callback, conn))

    def _reject(self, conn: TConn) -> bool | None:
        """Reject the request that has arrived; returns whether the connection stays.

        None where there is a slot for it, or where it is not a plain request: then its bytes are
        the parser's.
        """
        error = self.service.rejection(len(self.dispatched)) if self.alive else None
        if error is None:
            return None
        if conn.parser is not None and conn.parser.unreader.buf.getvalue():
            return None
        try:
            received = conn.sock.recv(MAX_PLAIN_REQUEST_BYTES, NOT_WAITING)
        except OSError:
            return None
        request = plain_request(received)
        if request is None:
            conn.init()
            conn.parser.unreader.unread(received)
            return None
        stays = request.keeps_alive and len(self.keepalived_conns) < self.max_keepalived
        reply = self.load_shedder.reply(request, error, close=not stays)
        with contextlib.suppress(OSError):
            # Who has left no room for so little does not read his replies.
            if conn.sock.send(reply, NOT_WAITING) == len(reply) and stays:
                return True
        self._close(conn)
        return False

    def handle(self, conn: TConn) -> object:
        """Serve one request of a connection; called by a thread of the pool."""
        self.served.conn = conn
        outcome = super().handle(conn)
        self._not_dispatched()
        self.served.conn = None  # A thread that rests keeps no connection and no body.
        if outcome is False:
            linger(conn.sock)
        return outcome

    def handle_request(self, req: Any, conn: TConn) -> object:
        """Serve one request whose head is read."""
        req.body.reader = _BodyReader(req.body.reader)
        stays = super().handle_request(req, conn)
        conn.sock.flush()
        return stays

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer a request that never reached the application, or broke outside of it."""
        status, reason, error_type, sentence = error_of(exc)
        if status == 500:
            log.error("gunicorn failed on a request.", exc_info=exc)
        else:
            log.debug("Rejected with %d: %s", status, exc)
        with contextlib.suppress(OSError):
            client.sendall(error_reply(status, reason, error_type, sentence))

    def set_accept_enabled(self, enabled: bool) -> None:
        """Begin or cease to accept connections; a stopping worker takes leave of its listeners."""
        super().set_accept_enabled(enabled)
        if not (enabled or self.alive):
            # The main loop may have ended before it came to what the signal's handler left it.
            self._begin_drain()
            self._leave_listeners()

    def _leave_listeners(self) -> None:
        """Accept who is at the door already, then stop to listen.

        Who comes later is rejected at once, or at the second try if it is while this takes its
        `HANDSHAKE_S`, and can turn to another instance; a listener that stayed open would let
        them wait for a reply until the process ends.
        """
        for listener in self.sockets:
            drop_new_connections(listener)
            self.poller.register(listener, selectors.EVENT_READ, self.accept)
        deadline = time.monotonic() + HANDSHAKE_S
        while self.sockets and (left_s := deadline - time.monotonic()) > 0:
            self.wait_for_and_dispatch_events(left_s)
        for listener in self.sockets:
            self.poller.unregister(listener)
            listener.close()
        self.sockets: list[socket.socket] = []

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain on SIGTERM."""
        if self.alive:
            # Not here: a signal handler may interrupt the holder of the locks that this needs.
            self.method_queue.defer(self._begin_drain)
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Leave at once on SIGQUIT.

        Ctrl+C in a terminal is a SIGINT to all processes, and the main one then sends SIGQUIT: a
        worker that obeyed both would be interrupted while it ends.
        """
        if sig == signal.SIGQUIT:
            super().handle_quit(sig, frame)

    def _begin_drain(self) -> None:
        """Reject new work, once; called by the main loop."""
        if self.service.draining:
            return
        self.service.begin_drain()
        log.info("No new work is taken; accepted requests have %d s.", self.cfg.graceful_timeout)


class ServiceLogger(Logger):  # type: ignore[misc]
    """gunicorn's log as a part of the service's."""

    def setup(self, cfg: Any) -> None:
        """Take gunicorn's level, and leave where lines go and how they look to `logs.py`."""
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True

    def error(self, msg: str, *args: object, **kwargs: Any) -> None:
        """Log an error, but for the three about a worker that could not start.

        The worker itself said in one line why, and these would bury it.
        """
        if msg in ("Shutting down: %s", "Reason: %s"):
            return
        if msg == "Worker (pid:%s) exited with code %s." and args[-1] in START_FAILED:
            return
        super().error(msg, *args, **kwargs)


class _BodyReader:
    """A reader of a request body whose parse errors are what a WSGI application expects."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes; raises OSError where the body is malformed."""
        try:
            data: bytes = self._reader.read(size)
        except http_errors.ParseException as error:
            raise OSError("malformed request body") from error
        return data
