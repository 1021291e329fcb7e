"""`stt2v generate`."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stt2v.engine.commands.options import JsonOption, ModelOption
from stt2v.engine.commands.output import say, say_json
from stt2v.engine.flags import takes_request
from stt2v.engine.models import DEFAULT_MODEL, find_model
from stt2v.engine.plan import plan_run
from stt2v.engine.progress import Progress
from stt2v.engine.request import Request

if TYPE_CHECKING:
    from stt2v.engine.session import Session


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
                say(str(path))
        if session.model.warning:
            progress.note(session.model.warning)
        planned = session.plan(request).to_json()
    if as_json:
        say_json({**planned, "files": files, "seconds": round(time.monotonic() - began, 2)})


def _videos(
    session: "Session", request: Request, output: Path | None, progress: Progress, metadata: bool
) -> Iterator[Path]:
    """Each video once it is whole: one, or one for every picture of a folder."""
    from stt2v.engine.run import generate_folder, generate_video

    if isinstance(request.image, Path) and request.image.is_dir():
        yield from generate_folder(session, request, request.image, output or Path("out"), progress, metadata)
    else:
        yield generate_video(session, request, output or Path("out.mp4"), progress, metadata)
