from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.published import layout, shape
from evaluation.published.layout import Shape, flat_config
from evaluation.published.shape import Cost
from tests.support.checkpoints import SMALL_PUBLISHED_SHAPE, published_vocabulary

pytestmark = pytest.mark.live

SMALL = replace(SMALL_PUBLISHED_SHAPE, layers=1, vision_depth=1)


def test_the_default_shape_is_the_published_2b() -> None:
    config = flat_config(Shape())
    assert (config["hidden_size"], config["intermediate_size"]) == (1536, 8960)
    assert (config["num_hidden_layers"], config["num_attention_heads"]) == (28, 12)
    assert config["num_key_value_heads"] == 2
    assert config["rope_scaling"]["mrope_section"] == [16, 24, 24]
    vision = config["vision_config"]
    assert (vision["depth"], vision["embed_dim"], vision["num_heads"]) == (32, 1280, 16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint, written as the large one is."""
    folder = tmp_path_factory.mktemp("shape") / "checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "read_vocabulary", published_vocabulary)
        layout.main([str(folder)], SMALL)
    return folder


@pytest.mark.parametrize("memory", [[], ["--free-gib", "0.55"]], ids=["all memory", "little"])
def test_a_shape_is_measured(
    folder: Path, capsys: pytest.CaptureFixture[str], memory: list[str]
) -> None:
    shape.main([str(folder), "--captchas", "1", *memory])
    figures = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert figures == [
        "time to ready",
        "peak memory",
        "first token",
        "each further one",
        "one captcha",
    ]


def test_a_model_that_cannot_be_loaded_is_a_one_line_error(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, reason in (
        ([str(folder), "--free-gib", "0.1"], "of memory are free"),
        (["/nowhere/at/all"], "neither a folder nor a hub name"),
    ):
        with pytest.raises(SystemExit) as end:
            shape.main([*arguments, "--captchas", "1"])
        assert end.value.code == 1
        [*_, line] = capsys.readouterr().err.splitlines()
        assert reason in line


def test_metrics_are_printed_one_a_line() -> None:
    lines = str(Cost(61.25, 5 * 1024**3, 2.0, 3.0)).splitlines()
    assert lines == [
        "time to ready     61.2 s",
        "peak memory       5.00 GiB",
        "first token       2.00 s",
        "each further one  0.20 s",
        "one captcha       3.00 s (6 tokens, 160x60 pixels)",
    ]
