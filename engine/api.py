"""The shortest way from Python: one call, all frames."""

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np

from stt2v.engine.backends.base import Frames
from stt2v.engine.console import progress_on
from stt2v.engine.drift import DriftLimits, OnDrift
from stt2v.engine.media.image import Fit
from stt2v.engine.media.video import VideoWriter, check_output
from stt2v.engine.media.whole import whole_file
from stt2v.engine.models import DEFAULT_MODEL
from stt2v.engine.progress import Silent
from stt2v.engine.record import Origin, record_json
from stt2v.engine.request import Request
from stt2v.engine.session import Session, StepCallback

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Video:
    """As a diffusers pipeline returns it: `frames[0]` is the video, [F, H, W, 3], uint8."""

    frames: tuple[Frames, ...]
    fps: float
    metadata: Mapping[str, str] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write it to an MP4, from which `stt2v generate --from` makes it again. Raises UsageError, OutputError."""
        path = Path(path)
        check_output(path)
        _, height, width, _ = self.frames[0].shape
        with (
            whole_file(path) as temporary,
            VideoWriter(temporary, width, height, self.fps, self.metadata) as writer,
        ):
            writer.write(self.frames[0])


class MadeBy(TypedDict, total=False):
    """Which engines make a video, and how, as `Session.open` takes it; with `trust` code of any origin runs here."""

    engines: Path | None
    backend: str | None
    trust: bool
    gpus: int
    vram: int | None


def generate(
    image: "str | Path | Image | None" = None,
    prompt: str | None = None,
    *,
    model: str = DEFAULT_MODEL,
    num_frames: int | None = None,
    seed: int | None = None,
    fps: float | None = None,
    steps: int | None = None,
    guidance: tuple[float, float] | None = None,
    negative_prompt: str | None = None,
    fit: Fit = "crop",
    enhancer: str | None = None,
    window: int | None = None,
    overlap: int | None = None,
    blending: bool = True,
    interpolate: bool | None = None,
    on_drift: OnDrift | None = None,
    drift_limits: DriftLimits | None = None,
    first_chunk: str | None = None,
    progress: bool = False,
    callback_on_step_end: StepCallback | None = None,
    **made_by: Unpack[MadeBy],
) -> Video:
    """Make a video from an image or a prompt with the engines of `model`, and return all its frames.

    progress: show it on stderr; made_by: which engines, as `Session.open` takes them. Raises what `Session` does.
    """
    request = Request(
        prompt=prompt,
        image=Path(image) if isinstance(image, str) else image,
        num_frames=num_frames,
        seed=seed,
        fps=fps,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative_prompt,
        fit=fit,
        enhancer=enhancer,
        window=window,
        overlap=overlap,
        blending=blending,
        interpolate=interpolate,
        on_drift=on_drift,
        drift_limits=drift_limits,
        first_chunk=first_chunk,
    )
    return _made(model, request, progress, callback_on_step_end, made_by)


def _made(model: str, request: Request, progress: bool, callback: StepCallback | None, made_by: MadeBy) -> Video:
    """The video of `request`; its frames are in memory once."""
    with (
        progress_on(sys.stderr) if progress else nullcontext(Silent()) as shown,
        Session.open(model, enhancer=request.enhancer, progress=shown, **made_by) as session,
    ):
        plan, done = session.plan(request), 0
        frames = np.empty((plan.num_frames, plan.height, plan.width, 3), np.uint8)
        for chunk in session.generate(request, shown, callback):
            frames[done : done + len(chunk.frames)] = chunk.frames
            done += len(chunk.frames)
        return Video((frames,), plan.fps, {"comment": record_json(session, request, Origin())})
