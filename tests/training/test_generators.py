import io
import json
import random
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from qwen_captcha.recognition.arithmetic.evaluate import evaluate_expression
from training.generators import __main__ as command
from training.generators.archive import write_archive
from training.generators.catalogue import catalogue, libraries
from training.generators.drawing import Drawing, Family, kind_of, png_bytes, smallest_file
from training.generators.libraries import DEFAULT_FOLDER, DRIVERS, Library, LibraryMissing
from training.generators.processes import DrawingFailed, draw

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "training.md"
# Answers with an image of the size and the text that the settings name.
FAKE_DRIVER = """
import base64, io, json, random, sys
from PIL import Image

for line in sys.stdin:
    request = json.loads(line)
    settings = request["settings"]
    if settings["text"] == "FAIL":
        sys.exit(3)
    if random.Random(request["seed"]).random() < settings.get("failures", 0):
        print(json.dumps({"error": "no glyph"}), flush=True)
        continue
    buffer = io.BytesIO()
    colour = tuple(random.Random(request["seed"]).choices(range(256), k=3))
    Image.new("RGB", (settings["width"], 20), colour).save(buffer, "PNG")
    image = base64.b64encode(buffer.getvalue()).decode()
    print(json.dumps({"image": image, "label": settings["text"]}), flush=True)
"""


@dataclass(frozen=True)
class FakeLibrary(Library):
    def is_installed(self, folder: Path) -> bool:
        return True

    def command(self) -> list[str]:
        return [sys.executable, "-c", FAKE_DRIVER]


FAKE = FakeLibrary("fake", "1", "MIT", "pypi", "fake")
DIGITS = Family("fake_digits", lambda rng: {"text": str(rng.randint(1000, 9999)), "width": 60})


def image(width: int = 60, height: int = 20) -> Image.Image:
    return Image.linear_gradient("L").resize((width, height)).convert("RGB")


def read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the names of an archive's files and the fields of its labels."""
    with tarfile.open(path) as archive:
        member = archive.extractfile("labels.tsv")
        assert member is not None
        text = member.read().decode()
        return archive.getnames(), [line.split("\t") for line in text.splitlines()]


class TestArchive:
    def test_the_archive_has_each_image_with_its_label(self, tmp_path: Path) -> None:
        drawings = [
            Drawing(png_bytes(image()), "0042", "digits"),
            Drawing(png_bytes(image()), "aB3x", "alnum"),
            Drawing(png_bytes(image()), "12", "math", "3*4="),
        ]
        assert write_archive(tmp_path / "new" / "fake.tar", drawings) == 3
        names, labels = read(tmp_path / "new" / "fake.tar")
        assert names == ["0000.webp", "0001.webp", "0002.webp", "labels.tsv"]
        assert labels == [
            ["0000.webp", "0042", "digits"],
            ["0001.webp", "aB3x", "alnum"],
            ["0002.webp", "12", "math", "3*4="],
        ]
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["fake.tar"]

    @pytest.mark.parametrize(
        "drawing",
        [
            pytest.param(Drawing(png_bytes(image()), "", "alnum"), id="no label"),
            pytest.param(Drawing(png_bytes(image()), "a\tb", "alnum"), id="a tab"),
            pytest.param(Drawing(png_bytes(image()), "12", "math"), id="no expression"),
        ],
    )
    def test_rejects_a_broken_line_and_leaves_nothing(
        self, tmp_path: Path, drawing: Drawing
    ) -> None:
        with pytest.raises(ValueError, match=r"no line of labels\.tsv"):
            write_archive(tmp_path / "fake.tar", [drawing])
        assert not list(tmp_path.iterdir())


class TestSmallestFile:
    def test_a_large_png_becomes_lossless_webp(self) -> None:
        content, suffix = smallest_file(png_bytes(image(200, 80)))
        assert suffix == "webp"
        with Image.open(io.BytesIO(content)) as webp:
            assert webp.convert("RGB").tobytes() == image(200, 80).tobytes()

    def test_transparency_stays(self) -> None:
        clear = Image.new("RGBA", (80, 30), (80, 80, 80, 0))
        with Image.open(io.BytesIO(smallest_file(png_bytes(clear))[0])) as opened:
            assert opened.convert("RGBA").getpixel((0, 0)) == (80, 80, 80, 0)

    def test_a_smaller_jpeg_stays(self) -> None:
        noise = Image.effect_noise((150, 40), 80).convert("RGB")
        buffer = io.BytesIO()
        noise.save(buffer, "JPEG", quality=50)
        assert smallest_file(buffer.getvalue()) == (buffer.getvalue(), "jpg")

    def test_an_animation_stays(self) -> None:
        buffer = io.BytesIO()
        others = [image().rotate(180)]
        image().save(buffer, "GIF", save_all=True, append_images=others)
        assert smallest_file(buffer.getvalue()) == (buffer.getvalue(), "gif")


class TestDrawing:
    @pytest.mark.live
    def test_an_image_depends_on_seed_and_place_alone(self, tmp_path: Path) -> None:
        def drawn(images: int, seed: int) -> list[Drawing]:
            return list(draw(FAKE, DIGITS, images, seed, tmp_path))

        assert drawn(5, 1)[:3] == drawn(3, 1) != drawn(3, 2)
        assert len({drawing.image for drawing in drawn(5, 1)}) == 5
        assert all(drawing.kind == "digits" for drawing in drawn(5, 1))

    @pytest.mark.live
    def test_a_failing_process_is_named_with_its_settings(self, tmp_path: Path) -> None:
        failing = Family("failing", lambda rng: {"text": "FAIL", "width": 60})
        with pytest.raises(DrawingFailed, match=r"fake ended with status 3 at .*FAIL"):
            list(draw(FAKE, failing, 1, 0, tmp_path))

    @pytest.mark.live
    def test_an_image_that_fails_is_left_out(self, tmp_path: Path) -> None:
        family = Family("some", lambda rng: {**DIGITS.settings(rng), "failures": 0.05})
        assert len(list(draw(FAKE, family, 40, 0, tmp_path))) == 40

    @pytest.mark.live
    def test_a_library_that_fails_often_is_an_error(self, tmp_path: Path) -> None:
        family = Family("most", lambda rng: {**DIGITS.settings(rng), "failures": 0.8})
        with pytest.raises(DrawingFailed, match=r"fake failed at \d+ of \d+ images.*no glyph"):
            list(draw(FAKE, family, 40, 0, tmp_path))

    def test_a_missing_library_is_an_error_with_the_install_command(self, tmp_path: Path) -> None:
        library, family = catalogue()["multicolor_digits"]
        with pytest.raises(LibraryMissing, match=r"--install multicolorcaptcha$"):
            next(draw(library, family, 1, 0, tmp_path))


class TestCatalogue:
    def test_every_driver_is_listed(self) -> None:
        drivers = {path.stem for path in DRIVERS.glob("*.py")} - {"__init__"}
        assert {library.driver for library in libraries().values()} == drivers

    @pytest.mark.parametrize("name", catalogue())
    def test_settings_are_json_and_follow_the_seed(self, name: str) -> None:
        _, family = catalogue()[name]
        for seed in range(6):
            settings = family.settings(random.Random(seed))
            assert json.dumps(settings) == json.dumps(family.settings(random.Random(seed)))
            text = settings.get("text")
            if text and settings.get("result"):
                assert str(evaluate_expression(text)) == settings["result"]
            elif text:
                assert kind_of(text) in ("digits", "alnum")

    @pytest.mark.parametrize("name", libraries())
    def test_documentation_names_library_and_licence(self, name: str) -> None:
        library = libraries()[name]
        lines = DOCUMENTATION.read_text(encoding="utf-8").splitlines()
        (line,) = (line for line in lines if line.startswith(f"| {name} |"))
        assert library.version in line
        assert library.licence in line


@pytest.mark.live
@pytest.mark.parametrize("name", catalogue())
def test_a_family_is_drawn(name: str) -> None:
    library, family = catalogue()[name]
    if not library.is_installed(DEFAULT_FOLDER):
        pytest.skip(f"{library.name} is not installed")
    for drawing in draw(library, family, 2, 7, DEFAULT_FOLDER):
        with Image.open(io.BytesIO(drawing.image)) as opened:
            assert min(opened.size) >= 15
        assert drawing.label
        if drawing.kind == "math":
            assert str(evaluate_expression(drawing.expression)) == drawing.label
        else:
            assert drawing.kind == kind_of(drawing.label)


class TestCommand:
    @pytest.mark.live
    def test_writes_an_archive_for_each_family(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        families = {name: (FAKE, Family(name, DIGITS.settings)) for name in ("one", "two")}
        monkeypatch.setattr(command, "catalogue", lambda: families)
        assert command.main([str(tmp_path), "--family", "one", "two", "--images", "3"]) == 0
        for name in families:
            names, labels = read(tmp_path / f"{name}.tar")
            assert len(names) == 4
            assert all(len(label) == 4 and kind == "digits" for _, label, kind in labels)

    def test_lists_families(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(["--list"]) == 0
        listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
        assert listed == list(catalogue())

    def test_a_missing_library_is_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [str(tmp_path), "--family", "multicolor_wide", "--libraries", str(tmp_path)]
        assert command.main(arguments) == 1
        assert "--install multicolorcaptcha" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())
