"""The command line of stt2v: parse, call, report."""

import importlib.util
import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stt2v import __version__
from stt2v.engine.doctor import examine
from stt2v.engine.errors import ExportError, Stt2vError, UsageError
from stt2v.engine.flags import takes_request
from stt2v.engine.media.canvas import cut_size
from stt2v.engine.metrics import MAWE_COEFFICIENT
from stt2v.engine.models import DEFAULT_MODEL, MODELS, find_model
from stt2v.engine.plan import plan_run
from stt2v.engine.progress import Progress
from stt2v.engine.request import Request

if TYPE_CHECKING:
    from stt2v.engine.session import Session

INTERRUPTED, TERMINATED = 130, 143

app = typer.Typer(
    name="stt2v",
    help="Long videos from one prompt or one image: StreamingSVD and StreamingT2V, compiled.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every error is one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words  # wherever it stands, so that a failed line can be repeated with it at the end
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _terminate)
        code = app([word for word in words if word != "--debug"], prog_name="stt2v", standalone_mode=False) or 0
    except typer.TyperException as error:
        message = error.format_message().rstrip(".")
        return _fail(f"{message}; see `{_command_path(error)} --help`", error.exit_code, debug)
    except Stt2vError as error:
        return _fail(str(error), error.exit_code, debug)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error}; run with --debug to see where", 1, debug)
    except SystemExit as stop:
        code = int(stop.code or 0)
    if code in (INTERRUPTED, TERMINATED):
        sys.stderr.write("stt2v: stopped\n")
    return int(code)


def _terminate(number: int, frame: object) -> None:
    """Leave as every error does, through the context managers, which remove what is half-written.

    It must not write: the signal may have come in the middle of a line of progress.
    """
    raise SystemExit(TERMINATED)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"stt2v: error: {' '.join(message.split())}\n")
    return code


def _command_path(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "stt2v"


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise UsageError(f"--size is {text!r}, expected WIDTHxHEIGHT, such as 1024x576") from None


ModelOption = Annotated[str, typer.Option("--model", help="One of `stt2v models`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _version(value: bool) -> None:
    if value:
        _say(f"stt2v {__version__}")
        raise typer.Exit


def _need_export(command: str, *modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ExportError(f"{command} needs {module}, which is not installed; pip install 'stt2v[export]'")


def _videos(
    session: "Session", request: Request, output: Path | None, progress: Progress, metadata: bool
) -> Iterator[Path]:
    """Each video once it is whole: one, or one for every picture of a folder."""
    from stt2v.engine.run import generate_folder, generate_video

    if isinstance(request.image, Path) and request.image.is_dir():
        yield from generate_folder(session, request, request.image, output or Path("out"), progress, metadata)
    else:
        yield generate_video(session, request, output or Path("out.mp4"), progress, metadata)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that stand before any command."""
    if context.invoked_subcommand is None:
        _say(context.get_help())


@app.command()
@takes_request
def generate(
    request: Request,
    model: ModelOption = DEFAULT_MODEL,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The MP4, by default out.mp4; for a folder of pictures a folder, out."),
    ] = None,
    backend: Annotated[str | None, typer.Option("--backend", help="The backend that runs the engines.")] = None,
    engines: Annotated[
        Path | None, typer.Option("--engines", help="The engine set's folder. Default: built here, else shipped.")
    ] = None,
    no_metadata: Annotated[bool, typer.Option("--no-metadata", help="Keep settings and seed out of the file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a video from a prompt or an image."""
    from stt2v.engine.console import progress_on
    from stt2v.engine.session import Session

    began = time.monotonic()
    declared = find_model(model)
    plan_run(declared, request.resolve(declared))  # a wrong argument is told before a missing engine set
    files = []
    with Session.open(model, engines, backend, request.enhancer) as session, progress_on(sys.stderr) as progress:
        for path in _videos(session, request, output, progress, not no_metadata):
            files.append(str(path))
            if not as_json:
                _say(str(path))
        if session.model.warning:
            progress.note(session.model.warning)
        planned = session.plan(request).to_json()
    if as_json:
        _say(json.dumps({**planned, "files": files, "seconds": round(time.monotonic() - began, 2)}))


@app.command("build-engines")
def build_engines(
    model: ModelOption,
    backend: Annotated[str, typer.Option("--backend", help="The backend to compile for.")] = "onnxruntime",
    precision: Annotated[
        Literal["fp32", "fp16", "fp8"] | None,
        typer.Option("--precision", help="What the engines compute in. Default: the backend's."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", help="cpu or cuda; of tensorrt-rtx a card, or several: sm_86+sm_89. Default: here."),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="WIDTHxHEIGHT", help="Size of the frames. Default: the model's.")
    ] = None,
    enhancer: Annotated[
        str | None, typer.Option("--enhancer", help="vid2vid, i2vgen-xl or none. Default: the model's.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="The folder of the model's weights. Default: what `pull` brought.")
    ] = None,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Seeded random weights, to measure or to try.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The engine set's folder. Default: the store.")] = None,
) -> None:
    """Compile an engine set. Needs the extra `export`."""
    from stt2v.engine.console import progress_on

    _need_export("build-engines", "torch")
    from stt2v.export.build_model import build_model

    with progress_on(sys.stderr) as progress:
        wanted = _size(size) if size else None
        built = build_model(model, backend, precision, target, wanted, enhancer, weights, random_weights, out, progress)
    _say(f"{built.directory}: {'built' if built.reasons else 'is current, nothing to do'}")
    for row in built.parity:
        _say(f"  {row.graph}: rel {row.rel:.1e} of fp32, limit {row.limit:g}")


@app.command()
def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="One of `stt2v models`.")],
    to: Annotated[Path | None, typer.Option("--to", help="The weight folder. Default: the store.")] = None,
    vfi_weights: Annotated[
        Path | None, typer.Option("--vfi-weights", help="EMA-VFI's ours.pkl, which is published on a drive.")
    ] = None,
) -> None:
    """Download a model's published weights, or go on with it. Needs the extra `export`."""
    from stt2v.engine.console import progress_on

    _need_export("pull", "huggingface_hub", "torch")
    from stt2v.export.pull import pull_model

    with progress_on(sys.stderr) as progress:
        pulled = pull_model(model, to, vfi_weights, progress)
    _say(f"{pulled.folder}: {f'{len(pulled.made)} files are new' if pulled.made else 'is complete, nothing to do'}")


@app.command()
@takes_request
def plan(request: Request, model: ModelOption = DEFAULT_MODEL, as_json: JsonOption = False) -> None:
    """Say what a run comes to, before any work: frames, chunks, windows, steps."""
    declared = find_model(model)
    planned = plan_run(declared, request.resolve(declared))
    for line in [json.dumps(planned.to_json())] if as_json else planned.lines():
        _say(line)


@app.command("mawe")
def measure_mawe(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="The video, such as an MP4.")],
    flow: Annotated[
        Literal["raft", "classical"] | None,
        typer.Option("--flow", help="The optical flow. Default: RAFT's where library and weights are present."),
    ] = None,
    coefficient: Annotated[
        float, typer.Option("--coeff", help="What the metric divides motion by.")
    ] = MAWE_COEFFICIENT,
    as_json: JsonOption = False,
) -> None:
    """Motion aware warp error: how badly frames fit the ones before them, by how much moves. Lower is better."""
    from stt2v.bench.mawe import measure
    from stt2v.engine.console import progress_on

    with progress_on(sys.stderr) as progress:
        report = measure(video, flow, coefficient, progress)
    for line in [json.dumps(report.to_json())] if as_json else report.lines():
        _say(line)


@app.command()
def models(as_json: JsonOption = False) -> None:
    """List the models and their defaults."""
    if as_json:
        _say(json.dumps({name: model.to_json() for name, model in MODELS.items()}))
        return
    for model in MODELS.values():
        default = " (default)" if model.name == DEFAULT_MODEL else ""
        _say(f"{model.name}{default}: {model.summary}")
        how, enhanced = model.enhancing, ""
        if how:
            width, height = cut_size((model.width, model.height), (how.width, how.height))
            enhanced = f" ({width}x{height} after {how.name})"
        _say(
            f"  from {' or '.join(model.inputs)}, {model.width}x{model.height}{enhanced}, {model.num_frames} frames at"
            f" {model.fps:g} fps, seed {model.seed}"
        )


@app.command()
def doctor() -> None:
    """Say what this machine can run, and why not."""
    findings = list(examine())
    for finding in findings:
        _say(f"{finding.mark:3} {finding.subject}: {finding.words}")
    if any(finding.mark == "BAD" for finding in findings):
        raise typer.Exit(1)
