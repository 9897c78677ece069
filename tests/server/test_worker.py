from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from gunicorn.http import errors as http_errors

import qwen_captcha
from qwen_captcha.scheduling.request_queue import FAILURES_UNTIL_BROKEN
from qwen_captcha.server.connection import linger
from qwen_captcha.server.error_replies import error_of, error_reply
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    ENTRY_SCRIPT,
    MAX_WAIT_S,
    Reply,
    Server,
    assert_error,
    gunicorn_command,
    parse_reply,
    post,
    receive_all,
    running,
    send_and_close,
)

PACKAGE = Path(qwen_captcha.__file__).parent
QUICK = gunicorn_command("tests.support.fake_backend:create_quick_app()")
IMAGE = image_bytes(120)
MIB = 1024 * 1024
HOST = b"Host: captcha\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(QUICK) as server:
        server.wait_until_ready()
        yield server


def chunked(*chunks: bytes) -> bytes:
    """Return a request whose body is sent in chunks, as they are given."""
    head = b"POST /ocr HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(chunks)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.live
@pytest.mark.parametrize(
    ("request_bytes", "status", "error_type"),
    [
        (b"garbage\r\n\r\n", 400, "bad_request"),
        (b"GET /health\r\n\r\n", 400, "bad_request"),
        (b"GET /health HTTP/9.9\r\n\r\n", 400, "bad_request"),
        (b"GET /health FTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"get /health HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"GET /health HTTP/1.1\nHost: x\n\n", 400, "bad_request"),
        (b"GET health HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"GET /\x00 HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "too_large"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431, "too_large"),
        (b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n", 431, "too_large"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nbad name: x\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nX: a\x00b\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nX: a\r\n folded\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        (post(IMAGE, b"Content-Length: 5"), 400, "bad_request"),
        (b"POST /ocr HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400, "bad_request"),
        (b"POST /ocr HTTP/1.1\r\nContent-Length: five\r\n\r\n", 400, "bad_request"),
        (post(IMAGE, b"Transfer-Encoding: chunked"), 400, "bad_request"),
        (b"POST /ocr HTTP/1.1\r\nTransfer-Encoding: magic\r\n\r\n", 501, "bad_request"),
        (b"POST /ocr HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
        (post(IMAGE, b"Expect: a miracle"), 417, "bad_request"),
        (chunked(b"not hex\r\n", IMAGE), 400, "bad_request"),
        (chunked(b"5\r\nimage beyond the chunk\r\n"), 400, "bad_request"),
        (chunked(chunk(IMAGE)), 400, "bad_request"),
        (post(IMAGE)[:-5], 400, "bad_request"),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 404, "not_found"),
        (b"CONNECT captcha:443 HTTP/1.1\r\n" + HOST + b"\r\n", 404, "not_found"),
    ],
    ids=[
        "garbage",
        "no version",
        "unknown version",
        "other protocol",
        "method in lower case",
        "bare line feeds",
        "relative path",
        "byte beyond ASCII in the path",
        "null byte in the path",
        "TLS",
        "long request line",
        "long header",
        "many headers",
        "header without a colon",
        "header name with a space",
        "header with a null byte",
        "folded header",
        "two hosts",
        "two lengths",
        "negative length",
        "length in words",
        "length and chunks",
        "unknown transfer coding",
        "chunks in HTTP/1.0",
        "unknown expectation",
        "chunk size that is no number",
        "chunk longer than its size",
        "chunks without an end",
        "body shorter than its length",
        "asterisk",
        "proxy request",
    ],
)
def test_invalid_http_is_answered_with_the_error_object(
    server: Server, request_bytes: bytes, status: int, error_type: str
) -> None:
    [reply] = send_and_close(server.port, [request_bytes])
    assert_error(reply, status, error_type)


@pytest.mark.live
@pytest.mark.parametrize(
    "request_bytes",
    [
        post(IMAGE),
        post(IMAGE, b"Content-Type: image/png"),
        post(IMAGE, b"Content-Type: image/png", b"Expect: 100-continue").replace(b"/1.1", b"/1.0"),
        chunked(chunk(IMAGE[:50]), chunk(IMAGE[50:]), b"0\r\n\r\n"),
        post(IMAGE, path=b"//ocr"),
        post(IMAGE, path=b"http://captcha/ocr"),
    ],
    ids=["no type", "a type", "HTTP/1.0", "chunks", "doubled slash", "absolute URL"],
)
def test_valid_http_is_answered(server: Server, request_bytes: bytes) -> None:
    [reply] = send_and_close(server.port, [request_bytes])
    assert (reply.status, reply.json["text"]) == (200, "w120")


@pytest.mark.live
def test_a_file_is_a_whole_reply(server: Server) -> None:
    style = next((PACKAGE / "api/web/assets").glob("*.css"))
    request = b"GET /assets/%s HTTP/1.1\r\n%sConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S) as connection:
        connection.sendall(request % (style.name.encode(), HOST))
        head, _, body = receive_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == style.read_bytes()


@pytest.mark.live
def test_replies_are_in_the_order_of_pipelined_requests(server: Server) -> None:
    widths = [50, 60, 70]
    replies = send_and_close(server.port, [post(image_bytes(width)) for width in widths])
    assert [reply.json["text"] for reply in replies] == ["w50", "w60", "w70"]


@pytest.mark.live
def test_data_after_a_body_is_not_part_of_it(server: Server) -> None:
    replies = send_and_close(server.port, [post(IMAGE), b"and some rubbish\r\n\r\n"])
    assert [reply.status for reply in replies] == [200, 400]
    assert_error(replies[1], 400, "bad_request")


@pytest.mark.live
def test_a_connection_stays_open_after_a_rejection(server: Server) -> None:
    replies = send_and_close(server.port, [post(b"this is a text"), post(IMAGE)])
    assert [reply.status for reply in replies] == [400, 200]


ZEROS = bytes(MIB)


@pytest.mark.live
@pytest.mark.parametrize(
    ("head", "pieces", "status", "error_type"),
    [
        (b"POST /ocr HTTP/1.1\r\nContent-Length: %d\r\n", 80, 413, "body_too_large"),
        (b"POST /batch-ocr HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=b\r\n"
         b"Content-Length: %d\r\n", 80, 413, "body_too_large"),
        (b"POST /ocr HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n", 80, 413,
         "body_too_large"),
        (b"POST /ocr HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n", 80, 413,
         "body_too_large"),
        (b"POST /ocr HTTP/1.0\r\nContent-Length: %d\r\n", 80, 413, "body_too_large"),
        (b"POST /nowhere HTTP/1.1\r\nContent-Length: %d\r\n", 20, 404, "not_found"),
        (b"PUT /ocr HTTP/1.1\r\nContent-Length: %d\r\n", 20, 405, "method_not_allowed"),
        (b"POST /ocr HTTP/1.1\r\nExpect: a miracle\r\nContent-Length: %d\r\n", 20, 417,
         "bad_request"),
    ],
    ids=[
        "too large",
        "too large, multipart",
        "too large, continued",
        "too large, closing",
        "too large, HTTP/1.0",
        "wrong path",
        "wrong method",
        "malformed",
    ],
)  # fmt: skip
def test_a_client_that_reads_only_after_sending_all_gets_the_error(
    server: Server, head: bytes, pieces: int, status: int, error_type: str
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S) as connection:
        connection.sendall(head % (pieces * MIB) + HOST + b"\r\n")
        for _ in range(pieces):
            connection.sendall(ZEROS)
        data = receive_all(connection)
    reply, rest = parse_reply(data.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
    assert rest == b""
    assert_error(reply, status, error_type)


@pytest.mark.live
def test_a_chunked_body_over_the_limit_is_rejected_in_the_same_way(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S) as connection:
        connection.sendall(chunked())
        for _ in range(80):
            connection.sendall(chunk(ZEROS))
        connection.sendall(b"0\r\n\r\n")
        reply, rest = parse_reply(receive_all(connection))
    assert rest == b""
    assert_error(reply, 413, "body_too_large")


@pytest.mark.live
def test_a_client_that_disconnects_disturbs_no_other(server: Server) -> None:
    for request_bytes in (b"", b"POST /o", post(IMAGE)[:-9], post(bytes(5 * MIB))[:-9]):
        with socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S) as connection:
            connection.sendall(request_bytes)
    [reply] = send_and_close(server.port, [post(IMAGE)])
    assert reply.status == 200
    assert not [line for line in server.lines if "Traceback" in line or "ERROR" in line]


@pytest.mark.live
def test_a_stopping_server_answers_what_it_accepted(tmp_path: Path) -> None:
    reading, go_on = tmp_path / "reading", tmp_path / "go-on"
    os.mkfifo(reading)
    os.mkfifo(go_on)
    replies: list[Reply] = []
    with running(
        gunicorn_command(f"tests.support.fake_backend:create_blocking_app('{tmp_path}')")
    ) as server:
        server.wait_until_ready()
        accepted = threading.Thread(
            target=lambda: replies.extend(send_and_close(server.port, [post(image_bytes(500))]))
        )
        accepted.start()
        # Returns when the backend has begun to read the image.
        reading.open().close()
        server.process.send_signal(signal.SIGTERM)
        server.wait_for_line("Draining")
        go_on.open("w").close()
        accepted.join(MAX_WAIT_S)
        assert server.wait_for_end() == 0
    [reply] = replies
    assert (reply.status, reply.json["text"]) == (200, "w500")


def workers_of(server: Server) -> list[psutil.Process]:
    """Return the live worker processes."""
    return psutil.Process(server.process.pid).children()


@pytest.mark.live
def test_a_stopping_server_answers_open_connections_and_refuses_new_ones() -> None:
    with running(QUICK) as server:
        server.wait_until_ready()
        [worker] = workers_of(server)
        # A worker that cannot accept: the connection stays in the listener's queue.
        worker.suspend()
        with socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S) as connection:
            connection.sendall(post(IMAGE))
            server.process.send_signal(signal.SIGTERM)
            worker.resume()
            server.wait_for_line("Draining")
            reply, rest = parse_reply(receive_all(connection))
            assert rest == b""
            # Whether the worker sees the signal or the connection first is open.
            assert (reply.status, reply.json.get("error_type")) in {(200, None), (503, "draining")}
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", server.port), MAX_WAIT_S)
        assert server.wait_for_end() == 0


@pytest.mark.live
def test_a_worker_that_exits_is_replaced_and_the_others_go_on() -> None:
    with running(QUICK, WORKERS="2") as server:
        server.wait_until_ready()
        server.wait_for_line("(Ready: reading[^$]*){2}")
        first, second = workers_of(server)
        first.kill()
        server.wait_for_line("was sent SIGKILL")
        server.wait_for_line("(Ready: reading[^$]*){3}")
        pids = {worker.pid for worker in workers_of(server)}
        assert len(pids) == 2
        assert pids & {first.pid, second.pid} == {second.pid}
        [reply] = send_and_close(server.port, [post(IMAGE)])
        assert reply.status == 200


@pytest.mark.live
def test_a_load_that_fails_ends_the_server_and_one_line_has_the_reason() -> None:
    with running(gunicorn_command("tests.support.fake_backend:create_unloadable_app()")) as server:
        assert server.wait_for_end() == 3
    reason, *others = [line for line in server.lines if " INFO " not in line]
    assert reason == "The model cannot be loaded: the weights are torn"
    assert all(" ERROR " in line for line in others), "gunicorn adds that a worker has ended"
    assert sum("Listening" in line for line in server.lines) == 1


@pytest.mark.live
@pytest.mark.parametrize("command", [ENTRY_SCRIPT, QUICK], ids=["script", "gunicorn"])
def test_a_setting_that_cannot_be_used_ends_the_start_with_one_line(
    command: tuple[str, ...],
) -> None:
    with running(command, MIN_PIXELS="abc") as server:
        assert server.wait_for_end() == 2
    assert server.lines == [
        "MIN_PIXELS=abc cannot be used: it must be a whole number from 784 to 100000000."
    ]


@pytest.mark.live
def test_the_log_of_a_good_start_is_short() -> None:
    with running(QUICK) as server:
        server.wait_until_ready()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_for_end() == 0
    messages = [line.split(" INFO ")[1] for line in server.lines]
    assert messages == [
        f"Listening on http://127.0.0.1:{server.port}",
        "Ready: reading one captcha takes about 0.00 s.",
        "Draining: new requests are rejected; accepted ones have 30 s.",
    ]


@pytest.mark.live
def test_ctrl_c_ends_it_without_output() -> None:
    """With the real model, as what was interrupted is the end of torch."""
    with running(ENTRY_SCRIPT, QWEN_MODEL="bundled", USE_GPU="false") as server:
        server.wait_until_ready()
        logged = len(server.lines)
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.wait_for_end() == 0
    assert server.lines[logged:] == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (http_errors.InvalidResponseHeader("X"), 500),
        (http_errors.InvalidRequestLine("x"), 400),
        (http_errors.ConfigurationProblem("x"), 500),
        (ValueError("x"), 500),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_client_errors_are_4xx_and_server_errors_5xx(error: Exception, status: int) -> None:
    assert error_of(error)[0] == status


def test_a_rejection_is_a_complete_response() -> None:
    reply, rest = parse_reply(error_reply(400, "bad_request", "Not valid."))
    assert rest == b""
    assert reply.headers["connection"] == "close"
    assert_error(reply, 400, "bad_request")


def test_lingering_ends_when_the_client_closes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"the rest of an upload")
        theirs.shutdown(socket.SHUT_WR)
        linger(ours)
        assert theirs.recv(1) == b""


def test_lingering_on_a_closed_connection_does_nothing() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    ours.close()
    linger(ours)
    assert ours.fileno() == -1


@pytest.mark.live
def test_a_broken_model_is_tried_again_without_a_request() -> None:
    command = gunicorn_command("tests.support.fake_backend:create_breaking_app()")
    with running(command, CACHE_SIZE="0") as server:
        server.wait_until_ready()
        for _ in range(FAILURES_UNTIL_BROKEN):
            [reply] = send_and_close(server.port, [post(image_bytes(500))])
            assert reply.json["error_type"] == "internal_error"
        server.wait_for_line("The model works again")
        [reply] = send_and_close(server.port, [post(IMAGE)])
        assert reply.status == 200
