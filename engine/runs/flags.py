"""The flags of what is kept of a video in the making, and how it goes on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from stt2v.engine.flags import takes_flags
from stt2v.engine.runs.interrupt import OnInterrupt


@dataclass(frozen=True)
class RunFlags:
    """The values of the flags, under their names on the command line."""

    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume", metavar="MP4", help="Go on with this video; with other settings and -o, make another of it."
        ),
    ] = None
    from_chunk: Annotated[
        int | None,
        typer.Option("--from-chunk", help="With --resume: keep the chunks before this one and make the rest anew."),
    ] = None
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", help="The folder for what is finished meanwhile. Default: runs in the store."),
    ] = None
    discard_run: Annotated[bool, typer.Option("--discard-run", help="Remove that as soon as the video is whole.")] = (
        False
    )
    on_interrupt: Annotated[
        OnInterrupt,
        typer.Option("--on-interrupt", help="Ctrl-C, once: finish what is there as a shorter video, or save only."),
    ] = "finish"


takes_run = takes_flags(RunFlags, "keep", lambda flags: flags)
"""Give a command these flags, and itself their values."""
