"""From a request to a file: the main job of the command line."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from stt2v.engine.errors import DriftError
from stt2v.engine.film import Film
from stt2v.engine.media.join import join_videos
from stt2v.engine.media.video import check_output
from stt2v.engine.media.whole import check_place
from stt2v.engine.plan import RunPlan, prompt_of
from stt2v.engine.progress import Progress
from stt2v.engine.record import Origin, record_json
from stt2v.engine.request import Request
from stt2v.engine.runs.interrupt import StopEarly
from stt2v.engine.runs.record import VIDEO
from stt2v.engine.runs.run import Run, pausing, scratch_run
from stt2v.engine.session import Session
from stt2v.engine.views import NO_VIEWS, Views

OpenRun = Callable[[Request, Path], AbstractContextManager[Run]]
"""Opens what is kept of the video that a request makes, given where the video goes."""


FRESH = Origin()
AS_ASKED = "as asked"


def unkept(request: Request, output: Path) -> AbstractContextManager[Run]:
    """The run of a video that nobody resumes."""
    return scratch_run()


@dataclass(frozen=True)
class Made:
    """A video that is whole; `plan` is what was made of what was planned, `ended` why it is shorter than that."""

    path: Path
    plan: RunPlan
    ended: str | None = None


def generate_video(
    session: Session,
    request: Request,
    output: Path,
    progress: Progress,
    metadata: bool = True,
    views: Views = NO_VIEWS,
    open_run: OpenRun = unkept,
    origin: Origin = FRESH,
) -> Made:
    """Make the video of `request` at `output`. Nothing is left there when it fails; what the views show stays.

    What the run has finished already is not done again. Raises UsageError, InputError, OutputError, StageError,
    BackendError, and StoppedError where the run had to stop and can go on.
    """
    check_output(output)  # before the input is even read, so that nothing else is said
    check_place(output)
    plan = session.plan(request)
    size = session.model.width, session.model.height
    with open_run(request, output) as run, views.opened(*size, plan.base_fps, progress) as shown:
        film = Film(session, request.resolve(session.model), progress, shown, run)
        plan, segments, ended = _made(film, plan)
        made = replace(request, num_frames=plan.num_frames, prompt=prompt_of(plan, request.prompt))
        with pausing(output):
            comment = {"comment": record_json(session, made, origin, output)} if metadata else {}
            join_videos(segments, output, plan.fps, comment)
        with run.writing(VIDEO) as path:
            path.write_text(json.dumps({"frames": plan.num_frames}))
    return Made(output, plan, ended)


def _made(film: Film, planned: RunPlan) -> tuple[RunPlan, list[Path], str | None]:
    """The segments of the video, and its plan: that of a shorter one where it ends early, and why it does."""
    try:
        return planned, film.segments(planned), None
    except StopEarly:
        why = AS_ASKED
    except DriftError as error:
        why = str(error)
        film.progress.note(why)
    plan = film.ended(planned)
    return plan, film.segments(plan), why if plan != planned else None
