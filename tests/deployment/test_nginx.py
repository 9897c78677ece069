"""Debian's nginx with the project's configuration, in front of live instances."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from evaluation.services import nginx_process
from evaluation.services.nginx_process import (
    INSTANCES,
    NGINX_CONFIGURATION,
    NginxStartError,
    running_nginx,
)
from evaluation.services.service_process import free_port
from qwen_captcha.errors import every_error_type
from qwen_captcha.server.run import GUNICORN_CONFIGURATION
from qwen_captcha.settings import Settings
from tests.support import live_server
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    MAX_WAIT_S,
    Reply,
    Server,
    assert_error,
    gunicorn_command,
    parse_reply,
    receive_all,
    running,
    send_and_wait,
)
from tests.support.stub_service import Call, stub_service

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
]

QUICK = gunicorn_command("tests.support.fake_backend:create_quick_app()")
IMAGE = image_bytes(120)
MIB = 1024 * 1024
CONFIGURATION = NGINX_CONFIGURATION.read_text(encoding="utf-8")
LOADING = b'{"success":false,"error_type":"model_loading"}'
FULL = b'{"success":false,"error_type":"queue_full"}'
READ = b'{"success":true,"text":"read"}'


@pytest.fixture(scope="module")
def instance() -> Iterator[Server]:
    with running(QUICK) as server:
        server.wait_until_ready()
        yield server


@pytest.fixture(scope="module")
def front(instance: Server) -> Iterator[int]:
    """Return the port of nginx in front of one instance that answers."""
    with running_nginx([instance.port]) as port:
        yield port


@pytest.fixture(scope="module")
def front_of_none() -> Iterator[int]:
    """Return the port of nginx in front of two instances that are not there."""
    with running_nginx([free_port(), free_port()]) as port:
        yield port


def post(body: bytes, *headers: bytes, path: bytes = b"/ocr") -> bytes:
    """Return a request with a body of known length, the last of its connection."""
    return live_server.post(body, b"Connection: close", *headers, path=path)


@pytest.mark.parametrize(
    ("request_bytes", "status", "error_type"),
    [
        (b"garbage\r\n\r\n", 400, "bad_request"),
        (b"\x00\xff\xfe\r\n\r\n", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
        (b"GET /health HTTP/9.9\r\n\r\n", 505, "bad_request"),
        (b"GET /health FTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
        (b"GET health HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"),
        (b"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "bad_request"),
        (b"GET /health HTTP/1.1\r\nHost: a b/c\r\n\r\n", 400, "bad_request"),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "too_large"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 400, "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"x" * 5000 + b"\r\n"
         + b"".join(b"Y%d: %s\r\n" % (n, b"y" * 5000) for n in range(9)) + b"\r\n", 400,
         "bad_request"),
        (b"POST /ocr HTTP/1.1\r\nHost: x\r\nContent-Length: five\r\n\r\n", 400, "bad_request"),
        (b"POST /ocr HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400, "bad_request"),
        (b"POST /ocr HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400,
         "bad_request"),
        (b"POST /ocr HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: magic\r\n\r\n", 501, "bad_request"),
        (b"POST /ocr HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnot hex\r\n" + IMAGE,
         400, "bad_request"),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method_not_allowed"),
        (b"CONNECT captcha:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"),
        (b"GET /captcha-error HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404, "not_found"),
        (b"POST /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404, "not_found"),
        (b"PUT /ocr HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405, "method_not_allowed"),
        (post(b"this is a text", b"Content-Type: image/png"), 415, "unsupported_image_type"),
        (post(b""), 400, "missing_image"),
        (post(bytes(11 * MIB), b"Content-Type: image/png"), 413, "image_too_large"),
    ],
    ids=[
        "garbage",
        "binary garbage",
        "TLS",
        "unknown version",
        "other protocol",
        "HTTP/2",
        "relative path",
        "path out of the root",
        "broken percent code",
        "no host",
        "two hosts",
        "broken host",
        "long request line",
        "long header",
        "many long headers",
        "length in words",
        "negative length",
        "two lengths",
        "unknown transfer coding",
        "broken chunk",
        "TRACE",
        "proxy request",
        "the location of errors",
        "unknown route",
        "wrong method",
        "not an image",
        "no image",
        "large image",
    ],
)  # fmt: skip
def test_every_error_is_the_error_object(
    front: int, request_bytes: bytes, status: int, error_type: str
) -> None:
    [reply] = send_and_wait(front, [request_bytes])
    assert_error(reply, status, error_type)


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(IMAGE, b"Content-Type: image/png"),
        post(IMAGE),
        post(IMAGE).replace(b"HTTP/1.1\r\nHost: captcha", b"HTTP/1.0"),
        post(IMAGE, b"Expect: a miracle"),
        post(IMAGE, path=b"//ocr"),
        post(IMAGE, path=b"/ocr?prompt=%E8%AF%BB"),
        b"POST /ocr HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"%x\r\n%s\r\n0\r\n\r\n" % (len(IMAGE), IMAGE),
    ],
    ids=[
        "image/png",
        "no type",
        "HTTP/1.0",
        "unknown expectation",
        "doubled slash",
        "query",
        "chunks",
    ],
)
def test_valid_http_is_answered(front: int, request_bytes: bytes) -> None:
    [reply] = send_and_wait(front, [request_bytes])
    assert (reply.status, reply.json["text"]) == (200, "w120")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
def test_a_client_that_reads_only_after_sending_all_gets_the_413(front: int, chunked: bool) -> None:
    zeros = bytes(MIB)
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (80 * MIB)
    with socket.create_connection(("127.0.0.1", front), MAX_WAIT_S) as connection:
        connection.sendall(b"POST /ocr HTTP/1.1\r\nHost: captcha\r\n" + length + b"\r\n\r\n")
        for _ in range(80):
            connection.sendall(b"%x\r\n%s\r\n" % (MIB, zeros) if chunked else zeros)
        if chunked:
            connection.sendall(b"0\r\n\r\n")
        reply, rest = parse_reply(receive_all(connection))
    assert rest == b""
    assert_error(reply, 413, "body_too_large")


def test_a_body_just_under_the_limit_reaches_the_service(front: int) -> None:
    [reply] = send_and_wait(front, [post(bytes(64 * MIB), b"Content-Type: image/png")])
    assert_error(reply, 413, "image_too_large")


@pytest.mark.parametrize("path", [b"/ocr", b"/batch-ocr", b"/health", b"/nowhere"])
def test_without_any_instance_there_is_a_502(front_of_none: int, path: bytes) -> None:
    [reply] = send_and_wait(front_of_none, [post(IMAGE, path=path)])
    assert_error(reply, 502, "unavailable")
    assert reply.headers["retry-after"] == "5"


def test_an_instance_that_hangs_up_is_a_502() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with running_nginx([listener.getsockname()[1]]) as port:
            [reply] = send_and_wait(port, [post(IMAGE)])
        thread.join(MAX_WAIT_S)
    assert_error(reply, 502, "unavailable")


def test_one_address_over_the_limit_gets_429(front_of_none: int) -> None:
    wanted = 400
    request = b"GET /nowhere HTTP/1.1\r\nHost: captcha\r\n\r\n"
    last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    replies = send_and_wait(front_of_none, [request * (wanted - 1) + last])
    refused = [reply for reply in replies if reply.status == 429]
    assert len(replies) == wanted
    assert refused
    for reply in refused:
        assert_error(reply, 429, "rate_limited")
        assert reply.headers["retry-after"] == "1"


class Instances:
    """Two scripted instances behind nginx, and what each was asked."""

    def __init__(self, stack: ExitStack) -> None:
        self.replies: list[tuple[int, bytes, dict[str, str]]] = [(200, READ, {})] * 2
        self.asked: list[list[Call]] = [[], []]
        self.delays_s = [0.0, 0.0]
        urls = [stack.enter_context(stub_service(self._script(number))) for number in range(2)]
        ports = [int(url.rsplit(":", 1)[1]) for url in urls]
        self.port = stack.enter_context(running_nginx(ports))

    def _script(self, number: int):
        def answer(call: Call) -> tuple[int, bytes, dict[str, str]]:
            self.asked[number].append(call)
            time.sleep(self.delays_s[number])
            status, body, headers = self.replies[number]
            sends_away = "X-Accel-Redirect" in headers and "X-Captcha-Elsewhere" in call.headers
            kept = headers if sends_away else {}
            return status, body, {"Content-Type": "application/json", **kept}

        return answer

    def send(self, path: bytes = b"/ocr", times: int = 10) -> list[Reply]:
        """Send a request some times, one after another."""
        return [send_and_wait(self.port, [post(IMAGE, path=path)])[0] for _ in range(times)]


@pytest.fixture
def instances() -> Iterator[Instances]:
    with ExitStack() as stack:
        yield Instances(stack)


SENT_AWAY = {"X-Accel-Redirect": "@elsewhere"}


def test_work_is_divided_and_arrives_unchanged(instances: Instances) -> None:
    assert [reply.json["text"] for reply in instances.send()] == ["read"] * 10
    assert [len(calls) for calls in instances.asked] == [5, 5]
    assert {call.body for calls in instances.asked for call in calls} == {IMAGE}


@pytest.mark.parametrize("path", [b"/ocr", b"/batch-ocr"])
def test_a_request_to_a_loading_instance_goes_to_another_one(
    instances: Instances, path: bytes
) -> None:
    instances.replies[0] = (503, LOADING, SENT_AWAY)
    replies = instances.send(path)
    assert [(reply.status, reply.json["text"]) for reply in replies] == [(200, "read")] * 10
    assert all("x-accel-redirect" not in reply.headers for reply in replies)
    assert {call.body for calls in instances.asked for call in calls} == {IMAGE}
    assert {(call.method, call.path) for calls in instances.asked for call in calls} == {
        ("POST", path.decode())
    }


def test_a_loading_instance_may_reply_slowly(instances: Instances) -> None:
    instances.replies[0] = (503, LOADING, SENT_AWAY)
    # Longer than the retries of others may wait.
    instances.delays_s[0] = 1.7
    with ThreadPoolExecutor() as threads:
        first = threads.submit(instances.send, times=1)
        while not instances.asked[0]:
            time.sleep(0.01)
        # The other one's turn is taken, so that the slow one is asked twice.
        instances.send(times=1)
        [reply] = first.result(MAX_WAIT_S)
    assert (reply.status, len(instances.asked[0])) == (200, 2)


def test_where_all_instances_are_loading_their_reply_is_passed_on(instances: Instances) -> None:
    instances.replies = [(503, LOADING, SENT_AWAY)] * 2
    for reply in instances.send():
        assert (reply.status, reply.json["error_type"]) == (503, "model_loading")
    # Refused by one, then by each of them.
    assert sum(len(calls) for calls in instances.asked) == 30


def test_an_overload_is_not_multiplied_and_marks_no_instance_down(instances: Instances) -> None:
    instances.replies = [(503, FULL, {})] * 2
    for reply in instances.send(times=20):
        assert (reply.status, reply.json["error_type"]) == (503, "queue_full")
    assert [len(calls) for calls in instances.asked] == [10, 10]
    instances.replies = [(200, READ, {})] * 2
    assert [reply.status for reply in instances.send()] == [200] * 10
    assert [len(calls) for calls in instances.asked] == [15, 15]


def test_health_is_that_of_any_instance_that_answers(instances: Instances) -> None:
    instances.replies[0] = (503, LOADING, {})
    request = b"GET /health HTTP/1.1\r\nHost: captcha\r\nConnection: close\r\n\r\n"
    replies = [send_and_wait(instances.port, [request])[0] for _ in range(10)]
    assert [reply.status for reply in replies] == [200] * 10
    instances.replies[1] = (503, LOADING, {})
    [reply] = send_and_wait(instances.port, [request])
    assert (reply.status, reply.json["error_type"]) == (503, "model_loading")


def test_a_stopping_instance_loses_nothing_behind_nginx(instance: Server) -> None:
    with running(QUICK) as one:
        one.wait_until_ready()
        with running_nginx([one.port, instance.port]) as port:
            statuses = [send_and_wait(port, [post(IMAGE)])[0].status for _ in range(20)]
            one.process.terminate()
            while one.process.poll() is None:
                # Slower than what nginx allows one address.
                time.sleep(0.01)
                statuses.append(send_and_wait(port, [post(IMAGE)])[0].status)
            statuses += [send_and_wait(port, [post(IMAGE)])[0].status for _ in range(20)]
    assert set(statuses) == {200}


def value_of(directive: str) -> list[str]:
    """Return the values of a directive, in the order of the file."""
    return re.findall(rf"^\s*{directive} ([^;]+);", CONFIGURATION, re.MULTILINE)


def seconds(value: str) -> float:
    return float(value[:-2]) / 1000 if value.endswith("ms") else float(value.removesuffix("s"))


GO_TIMEOUT_S = 10.0


def test_sizes_and_deadlines_agree_with_the_settings(settings: Settings) -> None:
    assert value_of("client_max_body_size") == [f"{settings.max_body_bytes // MIB}m"]
    assert f"limit of {settings.max_body_bytes} bytes" in CONFIGURATION
    ocr, batch, elsewhere = (seconds(value) for value in value_of("proxy_read_timeout"))
    assert settings.ocr_timeout_s < ocr < GO_TIMEOUT_S
    assert settings.batch_ocr_timeout_s < batch == elsewhere
    [shutdown] = value_of("worker_shutdown_timeout")
    assert settings.batch_ocr_timeout_s < seconds(shutdown)
    last_try_s = seconds(value_of("proxy_next_upstream_timeout")[0])
    assert last_try_s + settings.ocr_timeout_s < GO_TIMEOUT_S
    assert seconds(value_of("proxy_connect_timeout")[0]) < last_try_s
    bursts = {re.search(r"burst=(\d+)", value)[1] for value in value_of("limit_req")}
    assert bursts == {str(settings.max_queue_size)}


def test_the_request_line_is_that_of_gunicorn() -> None:
    gunicorn = GUNICORN_CONFIGURATION.read_text(encoding="utf-8")
    assert "limit_request_line = 8190" in gunicorn
    assert value_of("large_client_header_buffers") == ["4 8k"]


def test_nginx_closes_idle_connections_before_gunicorn_does() -> None:
    gunicorn = GUNICORN_CONFIGURATION.read_text(encoding="utf-8")
    keepalive = int(re.search(r"^keepalive = (\d+)$", gunicorn, re.MULTILINE)[1])
    # nginx's default for the connections that it keeps to an upstream is 60 s.
    assert keepalive > 60
    assert "keepalive_timeout" not in INSTANCES.read_text(encoding="utf-8")


def test_errors_of_nginx_are_those_of_the_service() -> None:
    [types] = re.findall(r"map \$status \$captcha_error_type \{(.*?)\}", CONFIGURATION, re.DOTALL)
    known = {error.error_type: error.status for error in every_error_type()}
    for status, error_type in re.findall(r"(\d{3}) (\w+);", types):
        # 414 has the service's word for what is too large.
        if int(status) != 414:
            assert known[error_type] == int(status) or (int(status), error_type) == (
                502,
                "unavailable",
            )


def test_a_missing_nginx_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NginxStartError, match="not installed"), running_nginx([1]):
        pass


def test_a_configuration_that_does_not_start_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "nginx.conf"
    broken.write_text(CONFIGURATION + "rubbish", encoding="utf-8")
    monkeypatch.setattr(nginx_process, "NGINX_CONFIGURATION", broken)
    with pytest.raises(NginxStartError, match="did not start"), running_nginx([1]):
        pass
