"""`stt2v build-engines` and `stt2v pull`, which need the extra `export`; torch is imported when they run."""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from stt2v.engine.commands.options import JsonOption, ModelOption, vram_bytes
from stt2v.engine.commands.output import report, say
from stt2v.engine.errors import ExportError, UsageError

EnhancerOption = Annotated[
    str | None, typer.Option("--enhancer", help="vid2vid, i2vgen-xl or none. Default: the model's.")
]
WindowOption = Annotated[
    int | None, typer.Option("--window", help="Frames that the enhancer sees at most. Default: the enhancer's.")
]
RoomOption = Annotated[
    int | None,
    typer.Option(
        "--vram", metavar="GIB", parser=vram_bytes, help="Engines for runs within so much memory of a card: 24GiB."
    ),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="The folder of the model's weights. Default: what `pull` brought.")
]
RandomOption = Annotated[bool, typer.Option("--random-weights", help="Seeded random weights, to measure or to try.")]


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
    enhancer: EnhancerOption = None,
    window: WindowOption = None,
    vram: RoomOption = None,
    weights: WeightsOption = None,
    random_weights: RandomOption = False,
    out: Annotated[Path | None, typer.Option("--out", help="The engine set's folder. Default: the store.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Compilers that run at once.")] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="GRAPH", help="Build this engine and leave others for later (exit code 3)."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be built, why and at what cost.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compile an engine set, or go on with it. Needs the extra `export`."""
    from stt2v.engine.console import progress_on

    need_export("build-engines", "torch")
    from stt2v.export.build_model import model_build, run_planned
    from stt2v.export.build_plan import plan_build

    with progress_on(sys.stderr) as progress:
        wanted = _size(size) if size else None
        source = weights, random_weights, out, progress, window, vram
        build = model_build(model, backend, precision, target, wanted, enhancer, *source)
        build.check_names(only or ())  # before a survey, which may take minutes
        result = (
            plan_build(build, build.survey(), jobs, only or ())
            if dry_run
            else run_planned(build, jobs, only or (), vram)
        )
    report(result, as_json)


def pull(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="One of `stt2v models`.")],
    to: Annotated[Path | None, typer.Option("--to", help="The weight folder. Default: the store.")] = None,
    vfi_weights: Annotated[
        Path | None, typer.Option("--vfi-weights", help="EMA-VFI's ours.pkl, which is published on a drive.")
    ] = None,
) -> None:
    """Download a model's published weights, or go on with it. Needs the extra `export`."""
    from stt2v.engine.console import progress_on

    need_export("pull", "huggingface_hub", "torch")
    from stt2v.export.pull import pull_model

    with progress_on(sys.stderr) as progress:
        pulled = pull_model(model, to, vfi_weights, progress)
    say(f"{pulled.folder}: {f'{len(pulled.made)} files are new' if pulled.made else 'is complete, nothing to do'}")


def need_export(command: str, *modules: str) -> None:
    """Raise ExportError unless what `command` needs of the extra `export` is installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ExportError(f"{command} needs {module}, which is not installed; pip install 'stt2v[export]'")


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise UsageError(f"--size is {text!r}, expected WIDTHxHEIGHT, such as 1024x576") from None
