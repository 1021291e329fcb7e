"""`stt2v generate`."""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stt2v.engine.commands.options import JsonOption
from stt2v.engine.commands.output import say, say_json
from stt2v.engine.errors import UsageError
from stt2v.engine.flags import Order, takes_request
from stt2v.engine.models import find_model
from stt2v.engine.paths import is_folder, real
from stt2v.engine.plan import plan_run
from stt2v.engine.progress import Progress
from stt2v.engine.request import Request
from stt2v.engine.views import NO_VIEWS, Views

DEFAULT_OUTPUT = Path("out.mp4")

if TYPE_CHECKING:
    from stt2v.engine.session import Session


@takes_request
def generate(
    order: Order,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The MP4, by default out.mp4; for a folder of pictures a folder, out."),
    ] = None,
    backend: Annotated[str | None, typer.Option("--backend", help="The backend that runs the engines.")] = None,
    engines: Annotated[
        Path | None, typer.Option("--engines", help="The engine set's folder. Default: built here, else shipped.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Open engines of any origin. Only if you know who made them: they are code.")
    ] = False,
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
    from stt2v.engine.session import Session

    began = time.monotonic()
    request, declared = order.request, find_model(order.model)
    views = Views(preview, contact_sheet)
    _check_names(order, output or DEFAULT_OUTPUT, views)
    plan_run(declared, request.resolve(declared))  # a wrong argument is told before a missing engine set
    files = []
    opened = Session.open(order.model, engines, backend, request.enhancer, trust)
    with opened as session, progress_on(sys.stderr) as progress:
        _tell_differences(order, session, progress)
        for path in _videos(session, request, output, progress, not no_metadata, views):
            files.append(str(path))
            if not as_json:
                say(str(path))
        if session.model.warning:
            progress.note(session.model.warning)
        planned = session.plan(request).to_json()
    if as_json:
        say_json({**planned, "files": files, "seconds": round(time.monotonic() - began, 2)})


def _check_names(order: Order, output: Path, views: Views) -> None:
    """Raise UsageError when one file of the run would be written over another."""
    if _folder(order.request) and views != NO_VIEWS:
        raise UsageError("a preview and a contact sheet show one video, got a folder of pictures; give one picture")
    read = order.request.image, order.repeats.path if order.repeats else None
    used = {real(path) for path in read if isinstance(path, Path)}
    for path in filter(None, (output, views.preview, views.contact_sheet)):
        if real(path) in used:
            raise UsageError(f"{path} is another file of this run and would be lost; choose another name")
        used.add(real(path))


def _tell_differences(order: Order, session: "Session", progress: Progress) -> None:
    """Note what is not here as it was when the video to repeat was made."""
    if order.repeats is None:
        return
    request = replace(order.request, image=None) if _folder(order.request) else order.request
    for line in order.repeats.differences(session.settings(request)):
        progress.note(line)


def _videos(
    session: "Session", request: Request, output: Path | None, progress: Progress, metadata: bool, views: Views
) -> Iterator[Path]:
    """Each video once it is whole: one, or one for every picture of a folder."""
    from stt2v.engine.run import generate_folder, generate_video

    if folder := _folder(request):
        yield from generate_folder(session, request, folder, output or Path("out"), progress, metadata)
    else:
        yield generate_video(session, request, output or DEFAULT_OUTPUT, progress, metadata, views)


def _folder(request: Request) -> Path | None:
    """The folder of pictures that a request starts from, where it does."""
    return request.image if isinstance(request.image, Path) and is_folder(request.image) else None
