"""The pictures in the documentation, taken of a service that reads an image as its width."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from evaluation.screenshots import DESKTOP, OUT, PHONE, pictures
from qwen_captcha.app import create_app
from qwen_captcha.settings import load_settings
from tests.support.fake_backend import FakeBackend
from tests.support.page_server import (
    CHROMIUM,
    chromium,
    served,
)

pytestmark = pytest.mark.live

NAMES = ["empty", "answer", "error", "batch", "phone", "docs"]
LABEL_PAGE = ["label", "label-zh"]  # taken of `qwen-captcha label`
# Of one picture in the repository.
MAX_BYTES = 80_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_each_state_of_the_page_is_pictured() -> None:
    app = create_app(load_settings({}), FakeBackend())
    with chromium() as browser, served(app) as url:
        taken = dict(pictures(browser, url))
    assert list(taken) == NAMES
    sizes = {name: Image.open(io.BytesIO(data)).size for name, data in taken.items()}
    assert sizes.pop("phone") == PHONE
    assert set(sizes.values()) == {DESKTOP}
    assert len(set(taken.values())) == len(NAMES)


def test_the_pictures_in_the_documentation_are_those() -> None:
    assert {path.stem for path in OUT.glob("*.png")} == {*NAMES, *LABEL_PAGE}
    sizes = [Path(OUT, f"{name}.png").stat().st_size for name in NAMES]
    assert max(sizes) < MAX_BYTES
