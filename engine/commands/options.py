"""The options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option("--model", help="One of `stt2v models`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
BackendOption = Annotated[str | None, typer.Option("--backend", help="The backend that runs the engines.")]
EnginesOption = Annotated[
    Path | None, typer.Option("--engines", help="The engine set's folder. Default: built here, else shipped.")
]
GpusOption = Annotated[
    int, typer.Option("--gpus", metavar="N", help="Cards of this machine that make one video together (extra `gpus`).")
]
