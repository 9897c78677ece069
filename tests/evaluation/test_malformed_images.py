"""Hostile images through every form, in short: damaged captchas, and a few of the nastiest."""

from __future__ import annotations

import io
import random
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from evaluation.load.malformed_files import (
    IMAGES,
    PILLOW,
    damaged_captchas,
    flipped,
    pillow_images,
)
from evaluation.malformed_images import (
    FORMS,
    SLOWEST_S,
    fault_of,
    growth,
    report,
    send_all,
)
from qwen_captcha.errors import IMAGE_FAILED, REQUEST_FAILED
from tests.support.fake_backend import image_bytes
from tests.support.live_server import (
    Server,
    gunicorn_command,
    running,
)
from tests.support.stub_service import (
    Call,
    Reply,
    stub_service,
)

pytestmark = pytest.mark.live

OTHERS = [
    ("a picture", image_bytes()),
    ("a bomb", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24,
                                   0, 0, 0, 0, 0, 0)),
    ("a huge PNG", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 2**31 - 1, 2**31 - 1)
     + b"\x08\x02\x00\x00\x00" + bytes(64)),
    ("a script", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    ("a strip", image_bytes(1, 400)),
    ("zeros", bytes(1000)),
    ("a TIFF", image_bytes(image_format="TIFF")),
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(
        gunicorn_command("tests.support.fake_backend:create_quick_app()"), CACHE_SIZE="0"
    ) as server:
        server.wait_until_ready()
        yield server


def test_malformed_images_are_read_or_rejected_in_every_form(server: Server) -> None:
    images = [*OTHERS, *damaged_captchas(3)]
    url = f"http://127.0.0.1:{server.port}"
    first = send_all(url, images, server.process.pid)
    records = send_all(url, images, server.process.pid)
    assert set(records) == set(FORMS)
    assert [line for record in records.values() for line in record.faults] == []
    assert all(sum(record.statuses.values()) == len(images) for record in records.values())
    assert set(records["raw body"].statuses) == {200, 400, 413, 415, 422}
    grown = growth(first, records)
    assert grown is not None
    assert -0.5 < grown < 0.05


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (500, b'{"success":false}', "status 500"),
        (302, b"{}", "status 302"),
        (200, b"text", "no JSON"),
        (200, b"[1]", "no JSON object"),
        (200, b'{"results":[{"error_type":"internal_error"}]}', "an internal error"),
        (200, b'{"code":500,"data":null}', "code 500"),
        (200, b'{"status":200,"result":"","msg":"%b"}' % REQUEST_FAILED.encode(), "The service"),
        (200, b'{"status":200,"result":"","msg":"%b"}' % IMAGE_FAILED.encode(), "The model"),
        (200, b'{"status":200,"result":"","msg":"The image is empty."}', None),
        (200, b"{}", None),
        (422, b"{}", None),
    ],
)
def test_a_fault_is_detected(status: int, body: bytes, fault: str | None) -> None:
    def script(call: Call) -> Reply:
        return status, body

    with stub_service(script) as url:
        records = send_all(url, [("x", b"data")])
    for record in records.values():
        assert (record.statuses[status], len(record.faults)) == (1, 0 if fault is None else 1)
        assert fault is None or fault in record.faults[0]
    assert growth(records, records) is None
    assert str(status) in report(records).splitlines()[0]


def test_no_reply_and_a_late_one_are_faults() -> None:
    [record, *_] = send_all("http://127.0.0.1:9", [("x", b"data")]).values()
    assert record.faults == ["x: ConnectionError"]
    reply = requests.Response()
    reply.status_code, reply._content = 200, b"{}"
    assert fault_of(reply, SLOWEST_S) is None
    assert fault_of(reply, SLOWEST_S + 0.5) == "2.50 s"


def test_damage_is_the_same_every_time() -> None:
    once, twice = list(damaged_captchas(2)), list(damaged_captchas(2))
    assert once == twice
    assert len({data for _, data in once}) > 12
    assert bin(int.from_bytes(flipped(bytes(9), 1, random.Random(0)))).count("1") == 1


def test_pillow_s_images_come_from_its_source_distribution(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / f"pillow-{PILLOW}.tar.gz", "w:gz") as archive:
        for name in (f"{IMAGES}b.png", f"{IMAGES}a/a.gif", "pillow-0/README.md"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            archive.addfile(entry, io.BytesIO(b"x"))
    assert pillow_images(tmp_path) == [("a/a.gif", b"x"), ("b.png", b"x")]
