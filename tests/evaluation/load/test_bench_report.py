from __future__ import annotations

import json
from dataclasses import asdict, replace

from evaluation.load.bench_report import (
    BenchReport,
    Plan,
    SingleImageTimes,
    render_report,
)
from evaluation.load.machine import Machine
from evaluation.load.speed import Spread, Way

ONE = Spread(1.0, 1.0, 1.0)
REPORT = BenchReport(
    machine=Machine("AMD EPYC", 2, 1, "Linux 6.1", {"python": "3.11.2", "torch": "2.15.0"}),
    commit="0123456789+",
    plan=Plan(model="bundled", images=64, rounds=2, threads=1),
    backend="onnx",
    device="cpu",
    precision="bfloat16",
    ways=(
        Way("plain generate", (10.0, 12.0), Spread(11.0, 10.0, 12.0), ONE),
        Way("/ocr from 16 clients", (40.0, 36.0), Spread(38.0, 36.0, 40.0), Spread(3.5, 3.0, 4.0)),
    ),
    single_times=(),
    agreement={"/ocr from 16 clients": 0.984375},
    start_to_ready_s=(7.24, 6.9),
    peak_resident_bytes=912_345_678,
    cached_reply_s=0.0021,
    health_s=0.0014,
)


def test_the_report_as_a_terminal_shows_it() -> None:
    assert render_report(REPORT) == (
        """\
machine  AMD EPYC, 2 cores, 1 thread a model, Linux 6.1, python 3.11.2, torch 2.15.0
commit   0123456789+
model    bundled, run by onnx on cpu; plain generate in bfloat16
images   64 a round, 2 rounds, cache off

                      images/s  lowest – highest  times  lowest – highest
─────────────────────────────────────────────────────────────────────────
plain generate            11.0       10.0 – 12.0   1.00       1.00 – 1.00
/ocr from 16 clients      38.0       36.0 – 40.0   3.50       3.00 – 4.00

same text       98.4% /ocr from 16 clients
start to ready  7.1 s
peak memory     912 MB
cached reply    2.10 ms, +0.70 ms to /health (1.40 ms)"""
    )


def test_a_competitor_has_a_line() -> None:
    text = render_report(
        replace(REPORT, single_times=(SingleImageTimes("ddddocr 1.6.1 beta", 0.021, 0.028),))
    )
    assert (
        "one captcha     21.0 ms through /ocr, 28.0 ms ddddocr 1.6.1 beta: 0.75 of its time"
        in text.splitlines()
    )


def test_an_unknown_value_is_a_dash() -> None:
    unknown = replace(
        REPORT,
        machine=replace(REPORT.machine, cpu=None),
        commit=None,
        peak_resident_bytes=None,
    )
    lines = render_report(unknown).splitlines()
    assert lines[0].startswith("machine  unknown processor, 2 cores")
    assert lines[1] == "commit   –"
    assert "peak memory     –" in lines


def test_the_report_fits_into_json() -> None:
    report = json.loads(json.dumps(asdict(REPORT)))
    assert report["ways"][1]["rounds"] == [40.0, 36.0]
    assert report["plan"]["images"] == 64
