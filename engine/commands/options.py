"""The options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from stt2v.engine.size import from_words


def vram_bytes(text: str) -> int:
    """What `--vram` says."""
    return from_words(text, "--vram")


ModelOption = Annotated[str, typer.Option("--model", help="One of `stt2v models`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
BackendOption = Annotated[str | None, typer.Option("--backend", help="The backend that runs the engines.")]
EnginesOption = Annotated[
    Path | None, typer.Option("--engines", help="The engine set's folder. Default: built here, else shipped.")
]
GpusOption = Annotated[
    int, typer.Option("--gpus", metavar="N", help="Cards of this machine that make one video together (extra `gpus`).")
]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Open engines of any origin. Only if you know who made them: they are code.")
]
VramOption = Annotated[
    int | None,
    typer.Option(
        "--vram", metavar="GIB", parser=vram_bytes, help="Stay within so much memory of the card, such as 24GiB."
    ),
]
