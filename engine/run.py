"""From a request to a file: the main job of the command line."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from stt2v.engine.errors import InputError, OutputError
from stt2v.engine.media.video import VideoWriter, check_output
from stt2v.engine.progress import Progress
from stt2v.engine.record import record_json
from stt2v.engine.request import Request
from stt2v.engine.session import Session
from stt2v.engine.views import NO_VIEWS, Views

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def generate_video(
    session: Session,
    request: Request,
    output: Path,
    progress: Progress,
    metadata: bool = True,
    views: Views = NO_VIEWS,
) -> Path:
    """Make the video of `request` at `output`. Nothing is left there when it fails; what the views show stays.

    Raises UsageError, InputError, OutputError, StageError, BackendError.
    """
    check_output(output)  # before the input is even read, so that nothing else is said
    plan = session.plan(request)
    tags = {"comment": record_json(session, request)} if metadata else {}
    width, height, fps = session.model.width, session.model.height, plan.base_fps
    with (
        VideoWriter(output, plan.width, plan.height, plan.fps, tags) as writer,
        views.opened(width, height, fps, progress) as shown,
    ):
        for chunk in session.generate(request, progress, on_base=shown):
            writer.write(chunk.frames)
    return output


def generate_folder(
    session: Session, request: Request, folder: Path, output: Path, progress: Progress, metadata: bool = True
) -> Iterator[Path]:
    """One video for every picture in `folder`, named after it, in the folder `output`; yields each when it is whole.

    A picture that cannot be used does not stop the others. Raises InputError at the end for those, or at once when
    there is no picture, and what `generate_video` raises.
    """
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not pictures:
        raise InputError(f"folder {folder} holds no picture ({', '.join(sorted(PICTURES))}); give another")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {output} cannot be made ({error.strerror}); choose another with --output") from error
    failed = []
    for picture, name in zip(pictures, _names(pictures), strict=True):
        try:
            yield generate_video(session, replace(request, image=picture), output / name, progress, metadata)
        except InputError as error:
            failed.append(picture.name)
            progress.note(str(error))
    if failed:
        raise InputError(f"{len(failed)} of {len(pictures)} pictures could not be used: {', '.join(failed)}")


def _names(pictures: Sequence[Path]) -> list[str]:
    """The file names of their videos: those that differ by their suffix only keep it."""
    stems = Counter(picture.stem for picture in pictures)
    return [f"{picture.stem if stems[picture.stem] == 1 else picture.name}.mp4" for picture in pictures]
