from dataclasses import replace
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from qwen_captcha.recognition.arithmetic.evaluate import evaluate_expression
from training import held_out
from training.learning.curriculum import LEVELS
from training.rendering.fonts import FontLibrary

pytestmark = pytest.mark.live

# matplotlib ships DejaVu: enough to draw with on a machine without Debian's fonts.
FACE = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")


def test_a_folder_has_each_image_with_its_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    level = replace(LEVELS[-1], kinds=(("digits", 1.0), ("latin", 1.0), ("math", 1.0)))
    monkeypatch.setattr(held_out, "LEVELS", (level,))
    count = held_out.write_folder(tmp_path, 30, FontLibrary(latin=((FACE,),), hanzi=()))
    found = 0
    for kind in ("digits", "latin", "math"):
        for line in (tmp_path / kind / "labels.tsv").read_text(encoding="utf-8").splitlines():
            name, label, evaluated_as, *expression = line.split("\t")
            with Image.open(tmp_path / kind / name) as image:
                assert min(image.size) > 7
            assert evaluated_as == {"latin": "alnum"}.get(kind, kind)
            assert bool(expression) == (kind == "math")
            if expression:
                assert str(evaluate_expression(expression[0])) == label
            found += 1
    assert found == count >= 25
