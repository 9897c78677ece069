"""The service under the requests that schemathesis makes of its own description."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qwen_captcha.api.openapi.document import operations_of
from qwen_captcha.settings import load_settings
from tests.support.live_server import (
    MAX_WAIT_S,
    PROJECT,
    gunicorn_command,
    running,
)

pytestmark = pytest.mark.live

# The description itself is where schemathesis starts, and is not tested again.
ROUTES = len(operations_of(load_settings({}))) - 1
EXAMPLES = 15


def test_schemathesis_finds_no_fault(tmp_path: Path) -> None:
    with running(gunicorn_command("tests.support.fake_backend:create_quick_app()")) as server:
        server.wait_until_ready()
        command = [
            str(Path(sys.executable).with_name("schemathesis")),
            f"--config-file={PROJECT / 'schemathesis.toml'}",
            "run",
            f"http://127.0.0.1:{server.port}/openapi.json",
            f"--max-examples={EXAMPLES}",
            "--phases=examples,coverage,fuzzing",
            "--seed=1",
            "--no-color",
        ]
        hooks = {
            "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks",
            "PYTHONPATH": str(PROJECT),
        }
        process = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, **hooks},
            capture_output=True,
            text=True,
            timeout=5 * MAX_WAIT_S,
            check=False,
        )
    assert process.returncode == 0, process.stdout[-6000:] + process.stderr
    assert f"  Tested: {ROUTES}\n" in process.stdout
    assert not [line for line in server.lines if " ERROR " in line]
