"""Figures of a video: motion aware warp error, seams, sharpness and colour. Frames are [N, H, W, 3], uint8, throughout.

MAWE is the metric of StreamingT2V (Henschel et al. 2024, section 5.1): how badly frames fit the ones before them once
moved along the optical flow, divided by how much moves at all.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.errors import UsageError

MAWE_SIZE = 720  # the metric is defined on frames of 720x720, whatever the video's aspect
MAWE_COEFFICIENT = 9.5
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601

Mask = npt.NDArray[np.bool_]
Figures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Warp:
    """A frame moved along a flow. image: [H, W, 3], uint8, 0 where unknown; known: [H, W], where a pixel landed."""

    image: Frames
    known: Mask


@dataclass(frozen=True)
class PairFigures:
    """What MAWE is made of, for frames n and n+1."""

    warp_error: float  # mean squared difference on the 0..255 scale, over what is known
    motion: float  # mean length of the flow, in pixels
    known: float  # share of the pixels on which the warped frame has landed


@dataclass(frozen=True)
class Mawe:
    """The metric, what it is made of, and what must be known to read it (empty when there is nothing)."""

    value: float  # nan, inf or 0 in the cases that `note` explains
    pairs: tuple[PairFigures, ...]
    note: str


def mawe(frames: Iterable[Frames], flows: Iterable[Array], coefficient: float = MAWE_COEFFICIENT) -> Mawe:
    """Motion aware warp error: the mean of warp_error / (coefficient * motion) over neighbouring frames.

    frames: N times [H, W, 3], uint8; flows: N-1 times [2, H, W], float32, pixels to the right and down from frame n
    to n+1. Lower is better. As in the reference nothing keeps the division from failing: see `Mawe.note`.

    Raises: UsageError when there is no pair, or the flows are not one fewer than the frames.
    """
    try:
        pairs = tuple(pair_figures(a, b, flow) for (a, b), flow in zip(pairwise(frames), flows, strict=True))
    except ValueError as error:
        raise UsageError(
            f"frames and flows do not belong together ({error}); give one flow a pair of frames"
        ) from error
    if not pairs:
        raise UsageError("the video has fewer than 2 frames, a warp error needs 2; give a longer video")
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.array([pair.warp_error for pair in pairs])
        ratios = errors / (coefficient * np.array([pair.motion for pair in pairs]))
    return Mawe(float(ratios.mean()), pairs, _note(ratios, pairs))


def _note(ratios: Figures, pairs: Sequence[PairFigures]) -> str:
    """What is odd about the result, in words."""
    still = sum(map(math.isnan, ratios))
    unmoved = sum(map(math.isinf, ratios))
    lost = sum(pair.known == 0 for pair in pairs)
    notes = []
    if still:
        notes.append(f"{still} of {len(pairs)} pairs neither move nor change (0/0), so the value is nan")
    if unmoved:
        notes.append(f"{unmoved} of {len(pairs)} pairs change without any motion, so the value is inf at best")
    if lost:
        notes.append(
            f"in {lost} of {len(pairs)} pairs all flow leaves the frame, which counts as error 0, the best value"
        )
    return "; ".join(notes)


def pair_figures(frame: Frames, following: Frames, flow: Array) -> PairFigures:
    """frame, following: [H, W, 3], uint8; flow: [2, H, W], from `frame` to `following`."""
    warped = splat(frame, flow)
    return PairFigures(warp_error(following, warped), motion(flow), float(warped.known.mean()))


def splat(frame: Frames, flow: Array) -> Warp:
    """Forward splatting: every pixel of `frame` goes to the nearest place that `flow` points to (ties to even).

    What leaves the image is dropped; of several pixels at one place the last in raster order stays.
    """
    height, width = frame.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    x, y = np.rint(columns + flow[0]), np.rint(rows + flow[1])
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    target = y[inside].astype(np.intp), x[inside].astype(np.intp)
    image, known = np.zeros_like(frame), np.zeros((height, width), bool)
    image[target] = frame[inside]  # NumPy keeps the last of repeated indices
    known[target] = True
    return Warp(image, known)


def warp_error(following: Frames, warped: Warp) -> float:
    """Mean squared difference over the known pixels, on the 0..255 scale; 0 where nothing is known."""
    if not warped.known.any():
        return 0.0
    difference = following[warped.known].astype(np.float64) - warped.image[warped.known]
    return float(np.mean(difference**2))


def motion(flow: Array) -> float:
    """flow: [2, H, W] -> mean length in pixels."""
    return float(np.mean(np.hypot(flow[0], flow[1]), dtype=np.float64))


def resized(frame: Frames, height: int = MAWE_SIZE, width: int = MAWE_SIZE) -> Frames:
    """frame: [H, W, 3], uint8 -> [height, width, 3]: bilinear, half-pixel centres, no antialiasing, as for MAWE."""
    image = _interpolated(frame.astype(np.float32), height, axis=0)
    return np.rint(_interpolated(image, width, axis=1)).astype(np.uint8)


def _interpolated(image: Array, size: int, axis: int) -> Array:
    length = image.shape[axis]
    centres = np.arange(size, dtype=np.float32) + np.float32(0.5)
    position = np.maximum(centres * np.float32(length / size) - np.float32(0.5), 0)
    below = position.astype(np.intp)
    share = (position - below.astype(np.float32)).reshape([-1 if a == axis else 1 for a in range(3)])
    left, right = image.take(below, axis), image.take(np.minimum(below + 1, length - 1), axis)
    return np.asarray(left + share * (right - left))


def luma(frames: Frames) -> Array:
    """frames: [..., H, W, 3], uint8 -> brightness [..., H, W], float32, 0..255."""
    return np.asarray(frames.astype(np.float32) @ LUMA)


def seam_ratio(frames: Sequence[Frames], seams: Sequence[int]) -> float:
    """How much more the picture changes where two parts meet than elsewhere; 1 when a seam cannot be seen.

    frames: N times [H, W, 3], uint8; seams: indices of the first frame of each part but the first. The ratio of the
    mean absolute change of brightness at the seams to that at all other places; nan without either.
    """
    steps = np.array([np.abs(luma(b) - luma(a)).mean() for a, b in pairwise(frames)], np.float64)
    at_seam = np.zeros(len(steps), bool)
    at_seam[[seam - 1 for seam in seams if 0 < seam <= len(steps)]] = True
    if at_seam.all() or not at_seam.any():
        return math.nan
    elsewhere = steps[~at_seam].mean()
    return float(steps[at_seam].mean() / elsewhere) if elsewhere else math.inf


def sharpness(frames: Iterable[Frames]) -> Figures:
    """Variance of the Laplacian of each frame (Pech-Pacheco et al. 2000); falls when a video goes soft. Returns [N]."""
    return np.array([_laplacian(luma(frame)).var(dtype=np.float64) for frame in frames])


def _laplacian(image: Array) -> Array:
    centre = image[1:-1, 1:-1]
    return np.asarray(image[:-2, 1:-1] + image[2:, 1:-1] + image[1:-1, :-2] + image[1:-1, 2:] - 4 * centre)


def mean_colour(frames: Frames) -> Array:
    """frames: [N, H, W, 3], uint8 -> their mean colour, [3], float32, 0..255; it moves when colours drift."""
    return np.asarray(frames.mean(axis=(0, 1, 2), dtype=np.float64), np.float32)
