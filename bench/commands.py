"""`stt2v mawe`; what it measures with is imported when it runs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from stt2v.engine.commands.options import JsonOption
from stt2v.engine.commands.output import report
from stt2v.engine.metrics import MAWE_COEFFICIENT


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
