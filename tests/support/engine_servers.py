"""Servers of OpenAI's protocol: one that replies as vLLM does, one that breaks, a real one."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from evaluation.services.service_process import end_process, free_port
from tests.support.fake_backend import MAX_WAIT_S
from tests.support.stub_service import (
    Call,
    Reply,
    stub_service,
)

MODEL = "Qwen/Qwen2-VL-2B-Instruct"
KEY = "sk-a-very-secret-key"
# Probability of each token that the recorded server reports, as its logarithm.
TOKEN_LOG_PROBABILITY = -0.125


def as_reply(content: object, status: int = 200, **headers: str) -> Reply:
    """Return a JSON reply."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, json.dumps(content).encode(), {"Content-Type": "application/json", **names}


def models(*names: str, owned_by: str = "vllm") -> dict[str, Any]:
    """Return a list of models as vLLM writes it."""
    return {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 1760000000, "owned_by": owned_by,
             "root": name, "parent": None, "max_model_len": 32768, "permission": []}
            for name in names
        ],
    }  # fmt: skip


def completion(text: str, *, logprobs: bool = True, finish_reason: str = "stop") -> dict[str, Any]:
    """Return a chat completion as vLLM writes it: a token a character, and one for the end."""
    entries = [
        {"token": token, "logprob": TOKEN_LOG_PROBABILITY, "bytes": list(token.encode()),
         "top_logprobs": []}
        for token in [*text, "<|im_end|>"]
    ]  # fmt: skip
    return {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1760000000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None,
                            "tool_calls": [], "reasoning_content": None},
                "logprobs": {"content": entries} if logprobs else None,
                "finish_reason": finish_reason,
                "stop_reason": None,
            }
        ],
        "usage": {"prompt_tokens": 120, "total_tokens": 126, "completion_tokens": 6},
    }  # fmt: skip


def image_of(body: dict[str, Any]) -> Image.Image:
    """Return the image in a request."""
    address = body["messages"][0]["content"][0]["image_url"]["url"]
    prefix = "data:image/png;base64,"
    assert address.startswith(prefix)
    return Image.open(io.BytesIO(base64.b64decode(address.removeprefix(prefix))))


class RecordedVllm:
    """Replies as vLLM does; an image is read as a number made of its pixels.

    Attributes:
        bodies: What was sent to be read, but for blank images, which are trials.
        fault: Answers a request to read in its place where it returns a reply.
        outage: Answers every request in its place where it returns a reply.
    """

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.listed = models(MODEL)
        self.fault: Callable[[int], Reply | None] = lambda number: None
        self.outage: Callable[[Call], Reply | None] = lambda call: None
        self.attempts = 0
        self._lock = threading.Lock()

    def __call__(self, call: Call) -> Reply:
        if reply := self.outage(call):
            return reply
        if call.path == "/v1/models":
            return as_reply(self.listed)
        assert (call.method, call.path) == ("POST", "/v1/chat/completions")
        body = json.loads(call.body)
        image = image_of(body).convert("L")
        if image.getextrema() == (255, 255):
            return as_reply(completion("?", logprobs="logprobs" in body))
        with self._lock:
            self.attempts += 1
            self.bodies.append(body)
            self.headers.append(call.headers)
            number = self.attempts
        text = str(sum(image.resize((8, 8)).tobytes()) % 10_000)
        return self.fault(number) or as_reply(completion(text, logprobs="logprobs" in body))


@contextmanager
def recorded_vllm() -> Iterator[tuple[RecordedVllm, str]]:
    """Serve a recorded vLLM; yield it and its base URL."""
    server = RecordedVllm()
    with stub_service(server) as url:
        yield server, f"{url}/v1"


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve whatever bytes `talk` sends once a request has begun; yield the base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def serve() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=(connection,), daemon=True).start()

    def converse(connection: socket.socket) -> None:
        try:
            with connection:
                connection.recv(65536)
                talk(connection)
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def transformers_serve(checkpoint: Path) -> Iterator[str]:
    """Run `transformers serve` on a checkpoint; yield its base URL once it answers."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(checkpoint)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        end_process(process, MAX_WAIT_S)


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 2 * MAX_WAIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "transformers serve ended"
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise AssertionError("transformers serve does not answer")
