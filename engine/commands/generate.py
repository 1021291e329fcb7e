"""`stt2v generate`."""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from stt2v.engine.batch.listing import Listed, picture_jobs
from stt2v.engine.batch.workshop import Making
from stt2v.engine.commands.batch import make_all
from stt2v.engine.commands.options import (
    BackendOption,
    EnginesOption,
    GpusOption,
    JsonOption,
    TrustOption,
    VramOption,
)
from stt2v.engine.commands.output import say, say_json
from stt2v.engine.errors import StoppedError
from stt2v.engine.flags import Order, takes_request
from stt2v.engine.runs.flags import RunFlags, takes_run
from stt2v.engine.runs.folder import resume_command, runs_folder
from stt2v.engine.runs.interrupt import Interrupt
from stt2v.engine.runs.restart import going_on, restarting
from stt2v.engine.videos import AS_ASKED, Made
from stt2v.engine.views import Views


@takes_request
@takes_run
def generate(
    context: typer.Context,
    order: Order,
    keep: RunFlags,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The MP4, by default out.mp4; for a folder of pictures a folder, out."),
    ] = None,
    backend: BackendOption = None,
    engines: EnginesOption = None,
    trust: TrustOption = False,
    gpus: GpusOption = 1,
    vram: VramOption = None,
    preview: Annotated[
        Path | None,
        typer.Option("--preview", metavar="MP4", help="Show the base frames here; it plays while it grows."),
    ] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option("--contact-sheet", metavar="PNG", help="Show some frames of every chunk here.")
    ] = None,
    no_metadata: Annotated[bool, typer.Option("--no-metadata", help="Keep settings and seed out of the file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a video from a prompt or an image."""
    from stt2v.engine.console import progress_on
    from stt2v.engine.job import job_of
    from stt2v.engine.session import Session

    began = time.monotonic()
    views = Views(preview, contact_sheet)
    job = job_of(order, keep, output, engines)
    job.check(views)  # a wrong argument is told before a missing engine set
    if job.folder:
        how = Making(backend, trust, keep, not no_metadata, gpus, vram)
        make_all(Listed(picture_jobs(job)), str(job.output), how, as_json)
        return
    with (
        restarting(partial(going_on, job.output, keep.run_dir, context, time.time())),
        progress_on(sys.stderr) as progress,
        Session.open(job.model, job.engines, backend, job.request.enhancer, trust, progress, gpus, vram) as session,
    ):
        made = job.make(session, keep, Interrupt(keep.on_interrupt), progress, views, not no_metadata)
        if session.model.warning:
            progress.note(session.model.warning)
    _report(made, time.monotonic() - began, as_json, keep.run_dir)


def _report(made: Made, seconds: float, as_json: bool, run_dir: Path | None) -> None:
    """Print what was made. Raises StoppedError for a video that ended early."""
    if as_json:
        say_json({**made.plan.to_json(), "files": [str(made.path)], "seconds": round(seconds, 2)})
    else:
        say(str(made.path))
    if made.ended == AS_ASKED:
        command = resume_command(str(made.path), runs_folder(run_dir))
        raise StoppedError(f"{made.path} ended early, {made.ended}; `{command}` goes on")
    if made.ended:  # what has drifted would drift again
        raise StoppedError(f"{made.path} ended early, {made.ended}")
