"""Drift: how far a chunk has gone from the video's beginning and from the frame before it, and what to do about it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.errors import DriftError, UsageError
from stt2v.engine.flow import dense_flow
from stt2v.engine.metrics import mean_colour, motion, seam_ratio, sharpness
from stt2v.engine.progress import Progress
from stt2v.engine.stages.decode import to_uint8

OnDrift = Literal["warn", "retry", "stop"]
ACTIONS: tuple[OnDrift, ...] = get_args(OnDrift)

ATTEMPTS = 4  # of a chunk, the first one included
FLOW_WIDTH = 256  # pixels: flow is measured on frames of about this width, whatever the video's

Make = Callable[[int], Array]
"""Makes a chunk's new frames, [n, 3, H, W], float32, with the noise of that attempt."""


@dataclass(frozen=True)
class DriftLimits:
    """What a chunk must keep to. Raises UsageError for values that allow everything or nothing.

    seam: the most that the picture may change from the chunk before, as a multiple of the change between frames within;
    sharpness: the least share of the first chunk's, and 1 over it the most; colour: the farthest that the mean colour
    may be from the first chunk's, in levels of 255; flow: the least motion between frames, in percent of the width.

    The defaults lie well outside of what steady scenes do: 90 parts of 18 frames each, of the world of
    `export/mini/world.py`, had seams up to 1.7, sharpness of 0.91 to 1.12, colours up to 3.8 away and flows of 0.24 and
    more.
    """

    seam: float = 3.0
    sharpness: float = 0.5
    colour: float = 30.0
    flow: float = 0.02

    def __post_init__(self) -> None:
        wrong = [name for name, value in asdict(self).items() if not (math.isfinite(value) and value >= 0)]
        if wrong or not 0 < self.sharpness <= 1:
            raise UsageError(
                f"drift limits are {self.spelled()}, expected finite numbers from 0 on, sharpness above 0 to 1"
            )

    @classmethod
    def parsed(cls, text: str) -> "DriftLimits":
        """The limits in a text such as "seam=3,colour=20"; those not named keep their default. Raises UsageError."""
        names = [field.name for field in fields(cls)]
        try:
            given = {name.strip(): float(value) for name, value in (part.split("=") for part in text.split(","))}
            return cls(**given)
        except (ValueError, TypeError):
            raise UsageError(
                f"--drift-limits is {text!r}, expected NAME=NUMBER,... of {', '.join(names)}, such as seam=3,colour=20"
            ) from None

    def spelled(self) -> str:
        """The text that `parsed` takes."""
        return ",".join(f"{name}={value}" for name, value in asdict(self).items())

    def strains(self, drift: "Drift") -> dict[str, float]:
        """How far each figure goes towards its limit: 1 is the limit itself, more is outside."""
        return {
            "seam": _ratio(drift.seam, self.seam),
            "sharpness": max(_ratio(self.sharpness, drift.sharpness), drift.sharpness * self.sharpness),
            "colour": _ratio(drift.colour, self.colour),
            "flow": _ratio(self.flow, drift.flow),
        }


@dataclass(frozen=True)
class Drifting:
    """What to do with a chunk that leaves the limits."""

    action: OnDrift
    limits: DriftLimits


@dataclass(frozen=True)
class Drift:
    """The figures of one chunk, as `DriftLimits` explains them."""

    seam: float
    sharpness: float
    colour: float
    flow: float

    def __str__(self) -> str:
        return f"seam {self.seam:.2f}, sharpness {self.sharpness:.2f}, colour {self.colour:.1f}, flow {self.flow:.3f} %"


@dataclass(frozen=True)
class Beginning:
    """What the first chunk looks like: mean sharpness, and mean colour, [3]."""

    sharpness: float
    colour: Array

    @classmethod
    def of(cls, frames: Frames) -> "Beginning":
        """frames: [F, H, W, 3], uint8."""
        return cls(float(sharpness(frames).mean()), mean_colour(frames))

    def drift(self, before: Frames, frames: Frames) -> Drift:
        """How far `frames`, [n, H, W, 3], uint8, are from here; before: [H, W, 3], the frame ahead of them."""
        own = float(sharpness(frames).mean())
        return Drift(
            seam=_number(seam_ratio([before, *frames], [1])),
            sharpness=own / self.sharpness if self.sharpness else math.inf if own else 1.0,
            colour=float(np.linalg.norm(mean_colour(frames) - self.colour)),
            flow=_mean_flow([before, *frames]),
        )


class DriftWatch:
    """Measures every chunk, says its figures, and makes one again with other noise where asked.

    `steps` is how many steps of progress a chunk is. It learns from `begin` what the video looks like at first.
    """

    def __init__(self, how: Drifting, steps: int, progress: Progress) -> None:
        self._how = how
        self._steps = steps
        self._progress = progress
        self._beginning: Beginning | None = None

    def begin(self, frames: Frames) -> None:
        """Take the first chunk, [F, H, W, 3], uint8, as what the others are measured by."""
        self._beginning = Beginning.of(frames)

    def settle(self, chunk: int, before: Array, make: Make) -> Array:
        """The frames of chunk `chunk`: its first attempt within the limits, else the one that is least outside.

        before: [3, H, W], float32, in [-1, 1], the frame ahead of them. Raises DriftError when it is to stop.
        """
        best, least, kept = make(0), math.inf, 1
        frames, attempts = best, ATTEMPTS if self._how.action == "retry" else 1
        for attempt in range(1, attempts + 1):
            strain, words = self._judged(chunk, before, frames)
            if strain < least:
                best, least, kept = frames, strain, attempt
            if strain <= 1:
                break
            if self._how.action == "stop":
                raise DriftError(
                    f"chunk {chunk} drifts, {words}; change the seed, the prompt or --drift-limits (with --from-chunk"
                    f" {chunk} in another take)"
                )
            self._progress.note(f"chunk {chunk} drifts (attempt {attempt} of {attempts}), {words}")
            if attempt < attempts:
                self._progress.advance("generate", -self._steps)
                frames = make(attempt)
        if least > 1 and attempts > 1:
            self._progress.note(f"chunk {chunk} keeps attempt {kept}, the least outside")
        return best

    def _judged(self, chunk: int, before: Array, frames: Array) -> tuple[float, str]:
        """The largest strain of a chunk, and what is outside in words."""
        assert self._beginning is not None, "the first chunk has not come by"
        drift = self._beginning.drift(to_uint8(before[None])[0], to_uint8(frames))
        self._progress.note(f"chunk {chunk}: {drift}")
        strains = self._how.limits.strains(drift)
        outside = [name for name, strain in strains.items() if strain > 1]
        figures, limits = asdict(drift), asdict(self._how.limits)
        return max(strains.values()), ", ".join(
            f"{name} {figures[name]:.3g} (limit {limits[name]:g})" for name in outside
        )


def _mean_flow(frames: Sequence[Frames]) -> float:
    """Mean length of the optical flow from each frame to the next, in percent of the width."""
    from PIL import Image

    factor = max(1, round(frames[0].shape[1] / FLOW_WIDTH))
    small = [np.asarray(Image.fromarray(frame).reduce(factor)) for frame in frames]
    return float(np.mean([motion(dense_flow(a, b)) for a, b in pairwise(small)]) / small[0].shape[1] * 100)


def _ratio(value: float, limit: float) -> float:
    return value / limit if limit else math.inf if value else 0.0


def _number(ratio: float) -> float:
    """A seam ratio without another change to compare with counts as no seam."""
    return 1.0 if math.isnan(ratio) else ratio
