"""What a command line comes to: the videos to make, from where they begin or go on, and the making of them."""

from dataclasses import dataclass, replace
from pathlib import Path

from stt2v.engine.errors import UsageError
from stt2v.engine.flags import Order
from stt2v.engine.models import DEFAULT_MODEL, find_model
from stt2v.engine.paths import is_folder, real
from stt2v.engine.plan import plan_run
from stt2v.engine.progress import Progress
from stt2v.engine.record import Record
from stt2v.engine.request import Request
from stt2v.engine.runs.flags import RunFlags
from stt2v.engine.runs.folder import find_run, runs_folder
from stt2v.engine.runs.interrupt import Interrupt
from stt2v.engine.runs.keeping import Keeping
from stt2v.engine.runs.resume import Resumption, resumption
from stt2v.engine.session import Session
from stt2v.engine.videos import FRESH, Made, generate_video
from stt2v.engine.views import NO_VIEWS, Views

OUTPUT, OUTPUT_FOLDER = Path("out.mp4"), Path("out")


@dataclass(frozen=True)
class Job:
    """A request to a model, and where its video goes; `repeats` and `resumes` say what it is made after.

    goes_on: take over what is kept of this very video, where an earlier call was stopped.
    """

    model: str
    request: Request
    output: Path
    engines: Path | None = None
    repeats: Record | None = None
    resumes: Resumption | None = None
    goes_on: bool = False

    @property
    def folder(self) -> Path | None:
        """The folder of pictures that the request starts from, where it does: a video for each."""
        image = self.request.image
        return image if isinstance(image, Path) and is_folder(image) else None

    def check(self, views: Views) -> None:
        """Raise UsageError before anything is opened: for the request, and for files that would be written over."""
        declared = find_model(self.model)
        if self.folder and views != NO_VIEWS:
            raise UsageError("a preview and a contact sheet show one video, got a folder of pictures; give one picture")
        read = self.request.image, self.repeats.path if self.repeats else None
        used = {real(path) for path in read if isinstance(path, Path)}
        for path in filter(None, (self.output, views.preview, views.contact_sheet)):
            if real(path) in used:
                raise UsageError(f"{path} is another file of this run and would be lost; choose another name")
            used.add(real(path))
        plan_run(declared, self.request.resolve(declared))

    def make(
        self,
        session: Session,
        keep: RunFlags,
        interrupt: Interrupt,
        progress: Progress,
        views: Views = NO_VIEWS,
        metadata: bool = True,
    ) -> Made:
        """The video, once it is whole. Raises what `generate_video` does."""
        self._tell_differences(session, progress)
        progress = interrupt.watched(progress)
        keeping = Keeping(session, runs_folder(keep.run_dir), interrupt, progress, keep.discard_run)
        how = self.resumes
        open_run = keeping.new if how is None else lambda request, output: keeping.resumed(how)
        if self.goes_on:
            open_run = keeping.continued
        origin = how.origin if how else FRESH
        return generate_video(session, self.request, self.output, progress, metadata, views, open_run, origin)

    def _tell_differences(self, session: Session, progress: Progress) -> None:
        """Note what is not here as it was when the video to repeat was made."""
        if self.repeats is None:
            return
        for line in self.repeats.differences(session.settings(self.request)):
            progress.note(line)


def job_of(order: Order, keep: RunFlags, output: Path | None, engines: Path | None) -> Job:
    """What `order` comes to. Raises UsageError, InputError where there is nothing to resume."""
    if keep.resume is None:
        if keep.from_chunk is not None:
            raise UsageError("--from-chunk is given and nothing to resume; add --resume MP4")
        job = Job(order.model, order.request, output or OUTPUT, engines, order.repeats)
        return replace(job, output=output or OUTPUT_FOLDER) if job.folder else job
    if order.repeats:
        raise UsageError("--resume and --from are given; leave one of them out")
    kept = find_run(runs_folder(keep.run_dir), keep.resume)
    if order.model not in (DEFAULT_MODEL, kept.settings.model):
        raise UsageError(f"model is {order.model!r}, the run is of {kept.settings.model!r}; leave --model out")
    how = resumption(kept, order.given, keep.from_chunk, output)
    own = Path(kept.record.engines) if kept.record.engines else None
    return Job(kept.settings.model, how.request, how.output, engines or own, resumes=how)
