"""From a request to a file: the main job of the command line."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stt2v import __version__
from stt2v.engine.errors import InputError
from stt2v.engine.media.video import VideoWriter, check_output
from stt2v.engine.progress import Progress
from stt2v.engine.request import Request
from stt2v.engine.session import Session

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}


def generate_video(session: Session, request: Request, output: Path, progress: Progress, metadata: bool = True) -> Path:
    """Make the video of `request` at `output`. Nothing is left there when it fails.

    Raises UsageError, InputError, OutputError, StageError, BackendError.
    """
    check_output(output)  # before the input is even read, so that nothing else is said
    chunks = session.generate(request, progress)
    plan = session.plan(request)
    tags = {"comment": json.dumps(plan.settings_json() | {"stt2v": __version__})} if metadata else {}
    with VideoWriter(output, plan.width, plan.height, plan.fps, tags) as writer:
        for chunk in chunks:
            writer.write(chunk.frames)
    return output


def generate_folder(
    session: Session, request: Request, folder: Path, output: Path, progress: Progress, metadata: bool = True
) -> Iterator[Path]:
    """One video for every picture in `folder`, named after it, in the folder `output`; yields each when it is whole.

    Raises InputError when there is no picture, and what `generate_video` raises.
    """
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not pictures:
        raise InputError(f"folder {folder} holds no picture ({', '.join(sorted(PICTURES))}); give another")
    output.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        target = output / f"{picture.stem}.mp4"
        yield generate_video(session, replace(request, image=picture), target, progress, metadata)
