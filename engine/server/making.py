"""The making of one ticket's video: from its beginning, where it was left, or from a chunk of another."""

from pathlib import Path
from typing import TYPE_CHECKING

from stt2v.engine.errors import InputError
from stt2v.engine.job import Job
from stt2v.engine.media.read import read_frames
from stt2v.engine.media.whole import whole_file
from stt2v.engine.run_costs import cost_on
from stt2v.engine.runs.flags import RunFlags
from stt2v.engine.runs.interrupt import Interrupt
from stt2v.engine.runs.resume import Resumption, resumption
from stt2v.engine.server.files import Files, VideoFiles
from stt2v.engine.server.messages import Forecast
from stt2v.engine.server.ticket import Ticket
from stt2v.engine.session import Session
from stt2v.engine.videos import Made

if TYPE_CHECKING:
    from stt2v.engine.server.worker import Wire

THUMBNAIL = 320  # pixels of its longer side


def make_video(session: Session, ticket: Ticket, files: Files, progress: "Wire", metadata: bool) -> Made:
    """Make the video of `ticket` in its folder, or go on with it. Raises what `generate_video` does."""
    own = files.of(ticket.id)
    progress.send(forecast(session, ticket, own.picture))
    job, keep = job_of(ticket, files), RunFlags(run_dir=files.runs)
    job.check(own.views)
    made = job.make(session, keep, Interrupt("save"), progress, own.views, metadata)
    _save_thumbnail(own)
    own.live.unlink(missing_ok=True)
    return made


def job_of(ticket: Ticket, files: Files) -> Job:
    """What is made for a ticket: of what is kept of it, of chunks of the video that it is a take of, or anew.

    Raises UsageError, InputError where those chunks are not there.
    """
    own = files.of(ticket.id)
    kept = files.run_of(ticket.id) if ticket.from_chunk else None
    how = resumption(kept, {}, None, None) if kept else take_of(ticket, files)
    if how is None:
        return Job(ticket.model, ticket.request(own.picture), own.video, goes_on=True)
    return Job(ticket.model, how.request, how.output, resumes=how)


def take_of(ticket: Ticket, files: Files) -> Resumption | None:
    """What a take goes on from; None for a video that begins by itself.

    Raises UsageError for a chunk that is not there, InputError where the chunks of the other video are not kept.
    """
    if ticket.source is None or ticket.from_chunk == 0:
        return None
    kept = files.run_of(ticket.source)
    if kept is None:
        raise InputError("the chunks of that video are not kept any more; make all of it again, from chunk 0")
    return resumption(kept, ticket.given, ticket.from_chunk, files.of(ticket.id).video)


def forecast(session: Session, ticket: Ticket, picture: Path) -> Forecast:
    """What the stages of a video should take, as far as the engines say so."""
    settings = ticket.request(picture).resolve(session.model)
    plan = session.plan(ticket.request(picture))
    cost = cost_on(session.engines, session.model, settings, plan)
    if cost is None:
        stages = {"generate": True, "enhance": plan.enhancing, "interpolate": plan.interpolate}
        return Forecast({name: 0.0 for name, there in stages.items() if there}, plan.steps)
    return Forecast({stage.stage: stage.seconds for stage in cost.stages}, plan.steps)


def _save_thumbnail(own: VideoFiles) -> None:
    """The first frame as a small JPEG."""
    from PIL import Image

    picture = Image.fromarray(next(read_frames(own.video)))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    with whole_file(own.thumbnail) as path:
        picture.save(path, quality=85)
