"""The graphs compared with the same checkpoint in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
from qwen_captcha.backends.qwen2vl.onnx.config import read_model_config, read_processor_config
from qwen_captcha.backends.qwen2vl.onnx.export import export_graphs
from qwen_captcha.backends.qwen2vl.onnx.graph_files import Part, Precision, graph_path
from qwen_captcha.backends.qwen2vl.onnx.model import OnnxCache, OnnxModel, load_engine
from qwen_captcha.backends.qwen2vl.preprocessing import Preprocessor
from qwen_captcha.backends.qwen2vl.pytorch import loading
from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchCache
from qwen_captcha.backends.qwen2vl.pytorch.placement import LoadPlan
from qwen_captcha.backends.qwen2vl.pytorch.placement import Precision as PyTorchPrecision
from qwen_captcha.backends.qwen2vl.pytorch.processor import create_engine
from qwen_captcha.recognition.charsets import Charset
from qwen_captcha.recognition.constraints import DecodingConstraints
from qwen_captcha.recognition.options import Case, Kind
from qwen_captcha.recognition.reading import GenerationRequest
from tests.support.checkpoints import (
    PIXEL_RANGE,
    SHAPES,
    SPECIAL_TOKENS,
    noise_images,
    write_small_checkpoint,
)

pytestmark = pytest.mark.live

PROMPTS = ("what is it?", "a much longer prompt than that", "", "".join(SPECIAL_TOKENS))
SIZES = [(160, 60), (60, 160), (100, 30), (160, 60), (3, 3), (100, 30)]
CONSTRAINTS = {
    "free": DecodingConstraints(),
    "digits": DecodingConstraints(Charset.of("0123456789"), 1),
    "letters, exactly four": DecodingConstraints(Charset.of("xyzh"), 4, 4),
    "details": DecodingConstraints(alternatives=5),
    "either case": DecodingConstraints(case=Case.LOWER),
    "arithmetic": DecodingConstraints(Charset.of("0123456789?"), 1, kind=Kind.MATH),
}


class Engines(NamedTuple):
    """The same checkpoint in both runtimes, in fp32."""

    folder: Path
    pytorch: Qwen2VLEngine[PyTorchCache]
    onnx: Qwen2VLEngine[OnnxCache]


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    folder = write_small_checkpoint(tmp_path_factory.mktemp("small"), shape=request.param)
    export_graphs(folder)
    model = loading.load_model(folder, LoadPlan(PyTorchPrecision.FP32))
    processor = loading.load_processor(folder, PIXEL_RANGE)
    onnx = load_engine(folder, Precision.FP32, 1, PIXEL_RANGE)
    return Engines(folder, create_engine(model, processor), onnx)


def requests() -> list[GenerationRequest]:
    """Return requests of different sizes, prompts and constraints."""
    return [
        GenerationRequest(image, PROMPTS[place % len(PROMPTS)], 12, constraints)
        for place, (image, constraints) in enumerate(
            zip(noise_images(SIZES), CONSTRAINTS.values(), strict=True)
        )
    ]


@pytest.mark.parametrize("together", [True, False], ids=["one batch", "one by one"])
def test_the_outputs_are_those_of_pytorch(engines: Engines, together: bool) -> None:
    batches = [requests()] if together else [[request] for request in requests()]
    for batch in batches:
        for expected, output in zip(
            engines.pytorch.read(batch), engines.onnx.read(batch), strict=True
        ):
            assert output.raw_response == expected.raw_response
            assert output.complete == expected.complete
            assert output.log_probability == pytest.approx(expected.log_probability, abs=1e-3)
            assert [token.text for token in output.tokens] == [t.text for t in expected.tokens]
            assert [token.log_probability for token in output.tokens] == pytest.approx(
                [token.log_probability for token in expected.tokens], abs=1e-3
            )
            assert [other.raw_response for other in output.alternatives] == [
                other.raw_response for other in expected.alternatives
            ]


def test_int8_is_close_to_fp32(engines: Engines) -> None:
    config = read_model_config(engines.folder)
    preprocessor = Preprocessor(read_processor_config(engines.folder, PIXEL_RANGE))
    batch = preprocessor.prepare(requests())
    drafted = np.empty((len(SIZES), 0), dtype=np.int64)
    (_, exact), (_, quantised) = (
        OnnxModel(engines.folder, config, precision, 1).prefill(batch, drafted, 1)
        for precision in (Precision.FP32, Precision.INT8)
    )
    assert not np.array_equal(exact, quantised)
    assert np.corrcoef(exact.ravel(), quantised.ravel())[0, 1] > 0.9


def test_a_graph_of_another_shape_is_rejected(engines: Engines, tmp_path: Path) -> None:
    other = write_small_checkpoint(tmp_path, shape=SHAPES["one layer, one key-value head"])
    export_graphs(other)
    [graph] = [graph_path(other, Part.TEXT, Precision.FP32)]
    wider = write_small_checkpoint(tmp_path / "wider")
    export_graphs(wider)
    graph.write_bytes(graph_path(wider, Part.TEXT, Precision.FP32).read_bytes())
    with pytest.raises(ValueError, match=r"text_fp32\.onnx does not fit the weights"):
        load_engine(other, Precision.FP32, 1, PIXEL_RANGE)


def test_an_image_is_encoded_alike_alone_and_in_a_batch(engines: Engines) -> None:
    preprocessor = Preprocessor(read_processor_config(engines.folder, PIXEL_RANGE))
    model = OnnxModel(engines.folder, read_model_config(engines.folder), Precision.INT8, 2)
    asked = requests()
    together = model._encode_images(preprocessor.prepare(asked))
    alone = [model._encode_images(preprocessor.prepare([request])) for request in asked]
    np.testing.assert_array_equal(together, np.concatenate(alone))
