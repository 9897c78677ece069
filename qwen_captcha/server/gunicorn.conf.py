"""gunicorn's configuration; the numbers come from the settings of the service.

By default there is one worker with many threads. One of its threads owns the model; the others
decode images or wait, so that all clients share batches, queue and cache. With WORKERS above 1,
each process loads the model and uses its share of the cores. This helps a small model on a CPU,
because the work outside of torch then runs in parallel, too.
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

# The folder of the package and the entry script: the checkout, or site-packages.
HOME = Path(__file__).resolve().parents[2]
# Maximum time for which a thread holds the interpreter lock while others wait: a fifth of Python's
# default. The loop that accepts connections then runs in time while many threads send replies.
SWITCH_INTERVAL_S = 0.001
sys.path.insert(0, str(HOME))

from qwen_captcha.logs import configure_logging  # noqa: E402
from qwen_captcha.settings import (  # noqa: E402
    SettingsError,
    set_variables,
    settings_from_environment,
)


def spare_descriptors() -> int:
    """Raise the limit of open files; return the number of connections that it leaves room for."""
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
# Connections with a thread, and up to 1000 idle ones that are kept alive for their next request.
worker_connections = min(1000 + threads, spare_descriptors())
# 0: workers are not restarted, because a new worker loads the model again.
max_requests = 0
preload_app = False
# Seconds without a heartbeat of the loop that accepts connections. Loading a model delays the
# heartbeat; nothing else takes long.
timeout = 120
graceful_timeout = math.ceil(settings.drain_timeout_s)
# Longer than nginx keeps an idle connection to an upstream (60 s), so that nginx closes first.
keepalive = 75
# `?prompt=` of percent-encoded Chinese is long; this is the most that gunicorn allows.
limit_request_line = 8190
# A read-only container can write neither the socket nor, outside of /dev/shm, the heartbeat file.
control_socket_disable = True
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# The service has log lines of its own for a normal start and stop.
loglevel = "warning"
logger_class = "qwen_captcha.server.worker.ServiceLogger"
# The folder in which workers share metrics; prometheus_client reads the variable on import.
metrics_folder = tempfile.mkdtemp(prefix="qwen-captcha-metrics-", dir=worker_tmp_dir)
set_variables({"PROMETHEUS_MULTIPROC_DIR": metrics_folder})


# Not in gunicorn's `on_exit`, which it calls only if it could listen.
atexit.register(shutil.rmtree, metrics_folder, ignore_errors=True)


def post_fork(server: Any, worker: Any) -> None:
    """Leave removing the folder to the main process, and shorten the switch interval of threads."""
    atexit.unregister(shutil.rmtree)
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def when_ready(server: Any) -> None:
    """Log the address of the service; the system may have chosen the port."""
    for listener in server.LISTENERS:
        host, port = listener.getsockname()[:2]
        logging.getLogger("qwen_captcha").info("Listening on http://%s:%d", host, port)


def child_exit(server: Any, worker: Any) -> None:
    """Remove the gauges of a worker that ended; its counters remain."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid, metrics_folder)  # type: ignore[no-untyped-call]
