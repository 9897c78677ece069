"""gunicorn's configuration; the numbers come from the settings of the service.

One worker with many threads is the rule: the model exists once and is owned by one thread of that
worker, and the others decode images or wait, so that all callers share batches, queue and cache.
With WORKERS, as many processes each hold the model once and divide the cores between them: for a
small model on a CPU, whose work outside of torch then runs at the same time too.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

# Where the package and the entry script lie: the checkout, or the packages of an installation.
HOME = Path(__file__).resolve().parents[2]
# How long a thread keeps the interpreter from the others: a fifth of Python's own, so that the loop
# which accepts connections gets its turn among the threads that answer a whole batch at once.
SWITCH_INTERVAL_S = 0.001
sys.path.insert(0, str(HOME))

from qwen_captcha.logs import configure_logging  # noqa: E402
from qwen_captcha.settings import (  # noqa: E402
    SettingsError,
    set_variables,
    settings_from_environment,
)


def spare_descriptors() -> int:
    """Return how many connections this process has descriptors for, after asking for all it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    # torch, logs, metrics and the model's files take some, and so does each large upload.
    return max(16, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


try:
    settings = settings_from_environment()
except SettingsError as error:
    print(error, file=sys.stderr)
    raise SystemExit(2) from None
configure_logging(settings.log_level, settings.log_format)

wsgi_app = "qwen_captcha_service:create_app()"
pythonpath = str(HOME)
# An IPv6 address needs brackets.
host = f"[{settings.host}]" if ":" in settings.host else settings.host
bind = f"{host}:{settings.port}"
workers = settings.workers
worker_class = "qwen_captcha.server.worker.JsonThreadWorker"
threads = settings.http_threads
# Beside those that have a thread, as many may be idle, kept alive for their next request.
worker_connections = min(1000 + threads, spare_descriptors())
# A worker that is recycled loads the model again.
max_requests = 0
preload_app = False
# Seconds without a sign of life from the loop that accepts connections; loading a model takes
# turns with it, and nothing else is long.
timeout = 120
graceful_timeout = math.ceil(settings.drain_timeout_s)
# Longer than nginx keeps an idle connection to an upstream (60 s), so that nginx closes first.
keepalive = 75
# `?prompt=` of percent-encoded Chinese is long; this is the most that gunicorn allows.
limit_request_line = 8190
# Read-only containers have no place for the socket, nor for the heartbeat file but here.
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# The service has log lines of its own for a normal start and stop.
loglevel = "warning"
logger_class = "qwen_captcha.server.worker.ServiceLogger"
# Where the workers share what they count; prometheus_client reads the variable when it is imported.
metrics_folder = tempfile.mkdtemp(prefix="qwen-captcha-metrics-", dir=worker_tmp_dir)
set_variables({"PROMETHEUS_MULTIPROC_DIR": metrics_folder})


# Not in gunicorn's `on_exit`, which it calls only if it could listen.
atexit.register(shutil.rmtree, metrics_folder, ignore_errors=True)


def post_fork(server: Any, worker: Any) -> None:
    """Leave the folder to the master, and let threads take turns more often than by default."""
    atexit.unregister(shutil.rmtree)
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def when_ready(server: Any) -> None:
    """Say where the service listens; the port may have been chosen by the system."""
    for listener in server.LISTENERS:
        host, port = listener.getsockname()[:2]
        logging.getLogger("qwen_captcha").info("Listening on http://%s:%d", host, port)


def child_exit(server: Any, worker: Any) -> None:
    """Forget the gauges of a worker that ended; its counts stay."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid, metrics_folder)  # type: ignore[no-untyped-call]
