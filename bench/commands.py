"""`stt2v mawe` and `stt2v bench ...`; what they measure with is imported when they run."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from stt2v.bench.chart import Charted, draw_chart
from stt2v.engine.commands.options import (
    BackendOption,
    EnginesOption,
    GpusOption,
    JsonOption,
    ModelOption,
    TrustOption,
    VramOption,
)
from stt2v.engine.commands.output import Report, report
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.errors import ExportError, UsageError
from stt2v.engine.flags import Order, takes_request
from stt2v.engine.media.whole import check_place
from stt2v.engine.metrics import MAWE_COEFFICIENT
from stt2v.engine.models import DEFAULT_MODEL
from stt2v.engine.size import from_words
from stt2v.engine.store import find_set
from stt2v.export.commands import need_export

bench = typer.Typer(
    name="bench", help="Measure how fast and how exact, in the same run as what you would otherwise have."
)


def _writable(path: Path | None) -> Path | None:
    """The path of a file to write, looked at before minutes of measuring. Raises OutputError."""
    if path is not None:
        check_place(path)
    return path


DeviceOption = Annotated[
    Literal["cuda", "cpu"] | None, typer.Option("--device", help="Where to measure. Default: cuda where there is one.")
]
ChartOption = Annotated[
    Path | None, typer.Option("--chart", metavar="PNG", callback=_writable, help="Also draw it there.")
]
FileOption = Annotated[
    Path | None, typer.Option("--json", callback=_writable, help="Also write everything that was measured there.")
]


def mawe(
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
        measured = measure(video, flow, coefficient, progress)
    report(measured, as_json)


@bench.command("step")
def bench_step(
    model: Annotated[str, typer.Option("--model", help="One of `stt2v models`.")] = "tiny",
    graph: Annotated[
        list[str] | None, typer.Option("--graph", help="A graph of the model, such as step; may be repeated.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", help="eager, compile, fp32, fp16 or fp8; may be repeated. Default: what fits."),
    ] = None,
    device: DeviceOption = None,
    file: FileOption = None,
    chart: ChartOption = None,
) -> None:
    """One call of a network: ours, as written, and by plain torch.compile, with random weights."""
    where = _device(device)
    from stt2v.bench.step import measure_step
    from stt2v.engine.console import progress_on

    variants = variant or (["eager", "compile", "fp16", "fp8"] if where == "cuda" else ["eager", "compile", "fp32"])
    with progress_on(sys.stderr) as progress:
        measured = measure_step(model, graph or ["step"], variants, where, progress)
    _report(measured, file)
    _draw(measured, chart)


@bench.command("pipeline")
@takes_request
def bench_pipeline(
    order: Order,
    engines: EnginesOption = None,
    gpus: GpusOption = 1,
    vram: VramOption = None,
    file: FileOption = None,
    chart: ChartOption = None,
) -> None:
    """A whole run, stage by stage: seconds and memory beside what `plan` says."""
    from stt2v.bench.pipeline import measure_pipeline
    from stt2v.engine.console import progress_on

    with progress_on(sys.stderr) as progress:
        measured = measure_pipeline(order.model, order.request, engines, progress, gpus, vram)
    _report(measured, file)
    _draw(measured, chart)


@bench.command("memory")
@takes_request
def bench_memory(
    order: Order,
    engines: EnginesOption = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="GIB", help="An amount for --vram, such as 16GiB; may be repeated."),
    ] = None,
    file: FileOption = None,
    chart: ChartOption = None,
) -> None:
    """A whole run within less and less memory of the card, beside one without a limit: seconds, memory, refusals."""
    from stt2v.bench.memory import measure_memory
    from stt2v.engine.console import progress_on

    limits = [from_words(text, "--limit") for text in limit or ()]
    with progress_on(sys.stderr) as progress:
        measured = measure_memory(order.model, order.request, engines, limits, progress)
    _report(measured, file)
    _draw(measured, chart)


@bench.command("gpus")
def bench_gpus(
    gpus: GpusOption = 2,
    model: ModelOption = DEFAULT_MODEL,
    backend: BackendOption = None,
    engines: EnginesOption = None,
    trust: TrustOption = False,
    file: FileOption = None,
) -> None:
    """What several GPUs make of the parts of a video that they share, measured, and predicted for more."""
    _device(None)
    from stt2v.bench.spread import measure_spread
    from stt2v.engine.console import progress_on

    directory = engines or find_set(model, backend)
    with progress_on(sys.stderr) as progress, EngineSet.open(directory, backend, trust) as opened:
        measured = measure_spread(opened, gpus, trust, progress)
    _report(measured, file)


@bench.command("kernels")
def bench_kernels(device: DeviceOption = None, file: FileOption = None) -> None:
    """Each of our kernels beside its reference, eager and compiled, and beside the machine's ceilings."""
    where = _device(device)
    if importlib.util.find_spec("triton") is None:
        raise ExportError("bench kernels needs triton, which is not installed; pip install triton")
    from stt2v.bench.kernels import measure_kernels

    _report(measure_kernels(where), file)


@bench.command("parity")
def bench_parity(
    model: ModelOption = DEFAULT_MODEL,
    engines: Annotated[
        Path | None, typer.Option("--engines", help="The engine set's folder. Default: what `generate` would take.")
    ] = None,
    graph: Annotated[list[str] | None, typer.Option("--graph", help="This graph only; may be repeated.")] = None,
    bisect: Annotated[
        bool,
        typer.Option("--bisect", help="Find the first bad tensor of each graph named, or else of those that fail."),
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="For --bisect, the weights of the set. Default: what `pull` brought."),
    ] = None,
    trust: TrustOption = False,
    file: FileOption = None,
) -> None:
    """How far each engine is from its reference on this machine, how fast, and where one goes wrong."""
    from stt2v.bench.parity import measure, search
    from stt2v.engine.console import progress_on

    if bisect:
        need_export("bench parity --bisect", "torch", "polygraphy")
    with progress_on(sys.stderr) as progress:
        measured = measure(engines or find_set(model), graph or (), trust, progress)
        if bisect:
            measured = search(measured, graph or (), weights, progress)
    _report(measured, file)


@bench.command("quality")
def bench_quality(
    prompts: Annotated[int, typer.Option("--prompts", min=1, help="How many held-out prompts.")] = 100,
    num_frames: Annotated[int, typer.Option("--num-frames", min=1, help="Base frames of each video.")] = 240,
    against: Annotated[
        Path | None, typer.Option("--against", help="Hold the engines' frames against those that --keep kept.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", callback=_writable, help="Keep the first 5 prompts' base frames there.")
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="A folder for a contact sheet and a plot.")
    ] = None,
    device: DeviceOption = None,
    file: FileOption = None,
) -> None:
    """How good the videos of `mini` are, by a judge that has seen rendered truth only. Hours without a GPU."""
    where = _device(device)
    from stt2v.bench.agreement import agreement
    from stt2v.bench.quality import KEPT, examine, save_base
    from stt2v.bench.quality_pictures import plot, sheet
    from stt2v.engine.console import progress_on

    if against:
        _report(agreement(against, min(prompts, KEPT)), file)
        return
    with progress_on(sys.stderr) as progress:
        made = examine(prompts, num_frames, where, progress)
    if keep:
        save_base(made.base, keep)
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
        sheet(made.enhanced).save(pictures / "mini_sheet.jpg", quality=90)
        plot(made.report.by_chunk).save(pictures / "mini_objects.png")
    _report(made.report, file)


def _draw(measured: Charted, chart: Path | None) -> None:
    if chart:
        draw_chart(measured, chart)


def _report(measured: Report, file: Path | None) -> None:
    report(measured, False)
    if file:
        file.write_text(json.dumps(measured.to_json(), indent=1) + "\n", encoding="utf-8")


def _device(wanted: Literal["cuda", "cpu"] | None) -> str:
    """The device to measure on. Raises ExportError without torch, UsageError for a GPU that is not there."""
    if importlib.util.find_spec("torch") is None:
        raise ExportError("bench needs torch, which is not installed; pip install 'stt2v[export]'")
    import torch

    found = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and found == "cpu":
        raise UsageError("--device is cuda, PyTorch finds no GPU here; leave it out to measure on the processor")
    return wanted or found
