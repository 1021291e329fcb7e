"""A request as the user makes it, and the settings it resolves to."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stt2v.engine.drift import ACTIONS, Drifting, DriftLimits, OnDrift
from stt2v.engine.errors import UsageError
from stt2v.engine.media.image import Fit, image_hash
from stt2v.engine.models.enhancers import choose_enhancer
from stt2v.engine.models.model import Denoising, Enhancing, Model
from stt2v.engine.noise import checked_seed
from stt2v.engine.schedules import SCHEDULES

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

LARGEST_VIDEO = 1_000_000  # frames: a bound on what is planned before any work
LARGEST_WINDOW = 1000
MOST_STEPS = 1000  # as many as any of the networks was trained with
SLOWEST, FASTEST = 0.01, 1000.0


@dataclass(frozen=True)
class Settings:
    """A request with nothing left open."""

    prompt: str | None
    image: "Path | Image | None"
    num_frames: int
    seed: int
    fps: float
    streaming: Denoising
    fit: Fit
    enhancing: Enhancing | None
    negative_prompt: str | None
    interpolate: bool
    drifting: Drifting | None
    first_chunk: str | None  # what makes the first chunk in place of the model's own engines

    def to_json(self) -> dict[str, Any]:
        """Everything that shapes the video but the picture itself, which stands as its hash."""
        settings = asdict(replace(self, image=None))
        if isinstance(self.image, Path):
            settings["image"] = image_hash(self.image)
        return settings


@dataclass(frozen=True)
class Request:
    """What to make. None means the model's default.

    fps: frames a second of the file; guidance: at the first and the last frame of a chunk; fit: how an image of
    another shape meets the model's size; enhancer: a name, or "none".
    """

    prompt: str | None = None
    image: "Path | Image | None" = None
    num_frames: int | None = None
    seed: int | None = None
    fps: float | None = None
    steps: int | None = None
    guidance: tuple[float, float] | None = None
    fit: Fit = "crop"
    negative_prompt: str | None = None
    enhancer: str | None = None
    window: int | None = None
    overlap: int | None = None
    blending: bool = True
    interpolate: bool | None = None
    on_drift: OnDrift | None = None
    drift_limits: DriftLimits | None = None
    first_chunk: str | None = None

    def resolve(self, model: Model) -> Settings:
        """Fill in the defaults of `model`. Raises UsageError for values it cannot take."""
        self._check_input(model)
        num_frames = _or(self.num_frames, model.num_frames)
        if not 1 <= num_frames <= LARGEST_VIDEO:
            raise UsageError(f"number of frames is {num_frames}, expected 1 to {LARGEST_VIDEO:,}")
        fps = _or(self.fps, model.fps)
        if not (math.isfinite(fps) and SLOWEST <= fps <= FASTEST):
            raise UsageError(f"frame rate is {fps:g}, expected {SLOWEST:g} to {FASTEST:g} frames a second")
        if self.fit not in ("crop", "pad"):
            raise UsageError(f"fit is {self.fit!r}, expected 'crop' or 'pad'")
        return Settings(
            prompt=self.prompt,
            image=self.image,
            num_frames=num_frames,
            seed=checked_seed(_or(self.seed, model.seed)),
            fps=fps,
            streaming=self._streaming(model),
            fit=self.fit,
            enhancing=self._enhancing(model),
            negative_prompt=self.negative_prompt,
            interpolate=_or(self.interpolate, model.interpolate),
            drifting=self._drifting(),
            first_chunk=self._first_chunk(model),
        )

    def _check_input(self, model: Model) -> None:
        for name in ("prompt", "negative_prompt"):
            if any("\ud800" <= letter <= "\udfff" for letter in getattr(self, name) or ""):
                raise UsageError(f"{name.replace('_', ' ')} holds bytes that are no text; write it in UTF-8")
        given = [name for name in ("prompt", "image") if getattr(self, name) is not None]
        if not set(given) & set(model.inputs):
            wanted = " or ".join(f"--{name}" for name in model.inputs)
            came = "only a prompt" if given else "neither a prompt nor an image"
            raise UsageError(f"model {model.name!r} starts from {wanted}, got {came}")

    def _first_chunk(self, model: Model) -> str | None:
        kind = self.first_chunk
        if kind is not None and kind not in model.first_chunks:
            known = ", ".join(model.first_chunks) or "its own only; leave --first-chunk out"
            raise UsageError(f"first chunk is {kind!r}, those of model {model.name!r} are {known}")
        if self.image is not None and "image" not in model.inputs and kind != "svd":
            hint = "; begin with it by --first-chunk svd" if "svd" in model.first_chunks else ""
            raise UsageError(f"model {model.name!r} starts from --{model.inputs[0]}, got an image too{hint}")
        return None if kind in model.first_chunks[:1] else kind

    def _drifting(self) -> Drifting | None:
        if self.on_drift is None:
            if self.drift_limits is not None:
                raise UsageError("drift limits are given and nothing to do about drift; add --on-drift")
            return None
        if self.on_drift not in ACTIONS:
            raise UsageError(f"what to do on drift is {self.on_drift!r}, expected one of {', '.join(ACTIONS)}")
        return Drifting(self.on_drift, self.drift_limits or DriftLimits())

    def _enhancing(self, model: Model) -> Enhancing | None:
        how = choose_enhancer(model, self.enhancer)
        if how is None:
            if self.window is not None or self.overlap is not None:
                raise UsageError("a window or overlap is given and no enhancer that has windows; leave one of them out")
            return None
        if self.overlap and not self.blending:
            raise UsageError(f"overlap is {self.overlap}, without randomized blending windows share no frames; use one")
        window = _or(self.window, how.window)
        overlap = _or(self.overlap, how.overlap) if self.blending else 0
        if not 1 < window <= LARGEST_WINDOW:
            raise UsageError(f"window is {window}, expected 2 to {LARGEST_WINDOW} frames")
        if not 0 <= overlap < window:
            raise UsageError(f"overlap is {overlap} of window {window}, expected 0 to {window - 1}")
        return replace(how, window=window, overlap=overlap)

    def _streaming(self, model: Model) -> Denoising:
        steps = _or(self.steps, model.streaming.steps)
        if not 1 <= steps <= MOST_STEPS:
            raise UsageError(f"number of steps is {steps}, expected 1 to {MOST_STEPS}")
        guidance = _or(self.guidance, model.streaming.guidance)
        if not all(math.isfinite(value) for value in guidance):
            raise UsageError(f"guidance is {guidance[0]}:{guidance[1]}, expected two finite numbers")
        SCHEDULES[model.streaming.schedule](steps)  # it may not have so many
        return replace(model.streaming, steps=steps, guidance=guidance)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
