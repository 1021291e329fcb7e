"""The shortest way from Python: one call, all frames."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stt2v.engine.backends.base import Frames
from stt2v.engine.media.image import Fit
from stt2v.engine.models import DEFAULT_MODEL
from stt2v.engine.request import Request
from stt2v.engine.session import Session, StepCallback

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Video:
    """As a diffusers pipeline returns it: `frames[0]` is the video, [F, H, W, 3], uint8."""

    frames: tuple[Frames, ...]
    fps: float


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
    first_chunk: str | None = None,
    engines: Path | None = None,
    backend: str | None = None,
    trust: bool = False,
    callback_on_step_end: StepCallback | None = None,
) -> Video:
    """Make a video from an image or a prompt with the engines of `model`, and return all its frames.

    With `trust`, `engines` may be of any origin: their code runs in this process.

    Raises UsageError, InputError, EngineSetError, BackendError, StageError.
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
        first_chunk=first_chunk,
    )
    with Session.open(model, engines, backend, enhancer, trust) as session:
        chunks = [chunk.frames for chunk in session.generate(request, callback_on_step_end=callback_on_step_end)]
        return Video((np.concatenate(chunks),), session.plan(request).fps)
