"""The command `qwen-captcha`, also `python -m qwen_captcha`, with its subcommands.

Exit statuses: 0 success, 1 failure of a part, 2 wrong use or an invalid setting. An argument for a
setting is set as that variable, so that there is one way to read it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from qwen_captcha.backends.qwen2vl.onnx.graph_files import Precision
from qwen_captcha.checkpoints.resolve import BUNDLED
from qwen_captcha.errors import CaptchaServiceError, InvalidOption, ModelLoadError
from qwen_captcha.logs import configure_logging
from qwen_captcha.recognition.answer import Answer, failed_answer
from qwen_captcha.recognition.options import (
    Case,
    Kind,
    Options,
    parse_options,
)
from qwen_captcha.service import CaptchaService
from qwen_captcha.settings import SettingsError, set_variables, settings_from_environment
from qwen_captcha.value_parsers import whole_number

EXAMPLES = """\
examples:
  %(prog)s serve --port 8000
  %(prog)s read captcha.png other.png --charset-range 6
  curl -s https://example.org/captcha | %(prog)s read - --json
  %(prog)s label captchas/
  %(prog)s fit captchas/ --out my-model
  %(prog)s doctor
  %(prog)s download Qwen/Qwen2-VL-2B-Instruct --mirror https://hf-mirror.com
  %(prog)s export runs/mine/checkpoint

All settings of the service are environment variables; docs/configuration.md lists them.
"""
STDIN = "-"
EXIT_NOT_ALL = 1
EXIT_WRONG_USE = 2
# A model on a slow CPU takes seconds for an image, and no other caller waits.
READ_TIMEOUT_S = 3600.0
READ_OPTIONS = ("prompt", "kind", "case", "charset", "charset_range", "length", "colors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments, else those of the process, name; the exit status."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # A pipe may have ASCII as its encoding, and a terminal may lack characters.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                encoding=None if stream.isatty() else "utf-8", errors="backslashreplace"
            )
    variables = {"QWEN_MODEL": "model", "HOST": "host", "PORT": "port"}
    set_variables(
        {
            name: str(value)
            for name, option in variables.items()
            if (value := getattr(options, option, None)) is not None
        }
    )
    try:
        status: int = options.run(options)
    except (SettingsError, InvalidOption) as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_USE
    except ModelLoadError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_ALL
    return status


def program() -> str:
    """Return the name of this command as a user would type it again."""
    called_as_module = Path(sys.argv[0]).name == "__main__.py"
    return "python -m qwen_captcha" if called_as_module else "qwen-captcha"


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=program(),
        description="Read text captchas with Qwen2-VL.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument("--model", help="hub name, folder or `bundled` (default: QWEN_MODEL)")

    serve = commands.add_parser("serve", parents=[model], help="start the HTTP service")
    serve.add_argument("--host", help="address to listen on (default: HOST, else 0.0.0.0)")
    serve.add_argument("--port", help="port to listen on (default: PORT, else 5000)")
    serve.set_defaults(run=run_serve)

    read = commands.add_parser("read", parents=[model], help="read images in this process")
    read.add_argument("images", nargs="+", metavar="IMAGE", help="image file, - for stdin")
    read.add_argument("--json", action="store_true", help="one JSON object a line, no table")
    read.add_argument("--prompt", help="instruction, for models that follow one")
    read.add_argument("--kind", help=f"type of the captchas: {', '.join(Kind)}")
    read.add_argument("--case", help=f"case of letters: {', '.join(Case)}")
    read.add_argument("--charset", help="the allowed characters")
    read.add_argument("--charset-range", help="the allowed characters by ddddocr's number, 0 to 7")
    read.add_argument("--length", help="number of characters, such as 4 or 4-6")
    read.add_argument("--colors", help="colors of the characters to read, such as red,blue")
    read.set_defaults(run=run_read)

    label = commands.add_parser("label", parents=[model], help="label a folder on a local page")
    label.add_argument("folder", type=Path, metavar="FOLDER", help="folder of captcha images")
    label.add_argument(
        "--port",
        dest="page_port",
        type=port_number,
        default=0,
        help="port of the page (default: any)",
    )
    label.set_defaults(run=run_label)
    fit = commands.add_parser("fit", help="fit a model to captchas of your own")
    fit.add_argument("folder", type=Path, metavar="FOLDER", help="labelled images")
    fit.add_argument("--out", type=Path, required=True, help="folder of the new model")
    fit.add_argument("--base", default=BUNDLED, help="hub name, folder or `bundled` (default)")
    fit.add_argument(
        "--minutes", type=minutes, default=4.0, help="minutes of training (default: 4)"
    )
    fit.set_defaults(run=run_fit)

    doctor = commands.add_parser(
        "doctor", parents=[model], help="check this machine and name fixes"
    )
    doctor.add_argument("--host", help="address that the service will listen on")
    doctor.add_argument("--port", help="port that the service will listen on")
    doctor.set_defaults(run=run_doctor)

    download = commands.add_parser("download", help="download a model, or what is missing of it")
    download.add_argument("name", metavar="MODEL", help="such as Qwen/Qwen2-VL-2B-Instruct")
    download.add_argument("--mirror", metavar="URL", help="such as https://hf-mirror.com")
    download.set_defaults(run=run_download)

    export = commands.add_parser("export", help="write a checkpoint's graphs for ONNX Runtime")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="a small checkpoint")
    export.add_argument(
        "--precision",
        choices=list(Precision),
        action="append",
        help="only these graphs, for a checkpoint that int8 makes less accurate (default: all)",
    )
    export.set_defaults(run=run_export)
    return parser


def run_serve(options: argparse.Namespace) -> int:
    """Become the service."""
    import qwen_captcha_service

    qwen_captcha_service.main()
    return 0


def run_read(options: argparse.Namespace) -> int:
    """Read images and print the answers; return 1 where one has no answer."""
    asked = parse_options({name: getattr(options, name) for name in READ_OPTIONS})
    settings = settings_from_environment()
    configure_logging("warning", settings.log_format)
    from qwen_captcha.service import start_local_service

    service = start_local_service(settings)
    answers = []
    for name, data in _images(options.images):
        answer = _answer(data, asked, service)
        print(json_line(name, answer) if options.json else table_row(name, answer), flush=True)
        answers.append(answer)
    return 0 if all(answer.success for answer in answers) else EXIT_NOT_ALL


def run_label(options: argparse.Namespace) -> int:
    """Serve the label page until interrupted."""
    settings = settings_from_environment()
    configure_logging("error", settings.log_format)
    from qwen_captcha.collecting.labels import LabelsError
    from qwen_captcha.labelling.run import label_folder

    try:
        label_folder(options.folder, settings, program(), options.page_port)
    except LabelsError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_ALL
    return 0


def run_fit(options: argparse.Namespace) -> int:
    """Fit a model to labelled images, and print how it goes."""
    if find_spec("torch") is None:
        print('fit needs PyTorch: pip install "qwen-captcha[qwen]"', file=sys.stderr)
        return EXIT_WRONG_USE
    settings = settings_from_environment()
    configure_logging("warning", settings.log_format)
    from qwen_captcha.fitting.errors import FittingError
    from qwen_captcha.samples import SampleError, read_samples

    try:
        samples = read_samples(options.folder)
        from qwen_captcha.fitting.fit import Request, fit

        request = Request(options.out, options.base, options.minutes, settings.use_gpu)
        fit(samples, request, log_line=print_now)
    except (FittingError, SampleError) as error:
        print(error, file=sys.stderr)
        return EXIT_WRONG_USE
    print(f"QWEN_MODEL={options.out} {program()} serve    # serves it")
    return 0


def minutes(text: str) -> float:
    """Return a number of minutes over 0.

    Raises:
        ValueError: It is none.
    """
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError(text)
    return number


def print_now(line: str) -> None:
    """Print a line that is seen at once, also through a pipe."""
    print(line, flush=True)


def run_doctor(options: argparse.Namespace) -> int:
    """Print what is well and what is not; 1 where the service cannot run."""
    from qwen_captcha.doctor import State, run_checks

    worst = 0
    for result in run_checks(program()):
        print(f"{result.state:<5} {result.subject:<12} {result.message}", flush=True)
        if result.fix:
            print(f"      {'':<12} → {result.fix}", flush=True)
        worst = max(worst, EXIT_NOT_ALL if result.state is State.WRONG else 0)
    return worst


def run_download(options: argparse.Namespace) -> int:
    """Download a model with progress bars; what is here already is kept."""
    if options.mirror:
        # Read by huggingface_hub when it is imported.
        set_variables({"HF_ENDPOINT": options.mirror})
    from qwen_captcha.checkpoints.files import download_checkpoint

    try:
        files = download_checkpoint(options.name)
    except ModelLoadError as error:
        print(error, file=sys.stderr)
        print("The same command goes on where this one stopped.", file=sys.stderr)
        return EXIT_NOT_ALL
    print(f"{options.name} is complete: {files.folder}")
    print(f"QWEN_MODEL={options.name} serves it.")
    return 0


def port_number(text: str) -> int:
    """Return a port as an argument; argparse names this function where it is none."""
    return whole_number(0, 65_535)(text)


def run_export(options: argparse.Namespace) -> int:
    """Write the graphs of a checkpoint beside its weights."""
    from qwen_captcha.backends.qwen2vl.onnx.export import export_graphs

    for path in export_graphs(options.folder, options.precision or tuple(Precision)):
        print(f"{path}  {path.stat().st_size / 1000:.1f} kB")
    return 0


def _images(names: Sequence[str]) -> Iterator[tuple[str, bytes | OSError]]:
    """Yield each image's name and its bytes, or why it has none."""
    for name in names:
        try:
            yield name, sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
        except OSError as error:
            yield name, error


def _answer(data: bytes | OSError, options: Options, service: CaptchaService) -> Answer:
    """Return the answer for an image, or one with the error."""
    if isinstance(data, OSError):
        return failed_answer(CaptchaServiceError(f"{data.strerror}."))
    try:
        return service.recognize(data, options, service.monotonic() + READ_TIMEOUT_S)
    except CaptchaServiceError as error:
        return failed_answer(error)


def json_line(name: str, answer: Answer) -> str:
    """Return an answer as one JSON object."""
    fields = {
        "image": name,
        "success": answer.success,
        "text": answer.text,
        "confidence": answer.confidence,
        "raw_response": answer.raw_response,
        "error": answer.error,
        "warnings": list(answer.warnings),
    }
    if answer.model is not None:
        fields["model"] = answer.model
    return json.dumps(fields, ensure_ascii=False)


def table_row(name: str, answer: Answer, width: int = 12) -> str:
    """Return confidence, text and name in columns; instead of a text what is wrong."""
    # Chinese characters are two columns wide in a terminal.
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in answer.text)
    text = answer.text.ljust(width - wide)
    remarks = [answer.error] if answer.error else list(answer.warnings)
    return "  ".join([f"{answer.confidence:.3f}", text, name, *remarks])
