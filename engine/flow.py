"""Dense optical flow without a network, for figures where RAFT is not installed.

Pyramidal Lucas-Kanade (Bouguet 2001) at every pixel: from coarse to fine, the second frame is warped back by the flow
so far and the remaining displacement solved for by least squares in a box around each pixel. Good for motions that are
small against the box on the coarsest level; a network does better at occlusions and thin structures.
"""

import numpy as np

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.metrics import luma

NAME = "lucas-kanade"
COARSEST = 24  # pixels on the shorter side of the coarsest level
RADIUS = 5  # of the box, in pixels
PASSES = 4  # on each level
STIFFNESS = 2.0  # pulls the update towards 0 where there is no texture; in squared grey levels a pixel
LONGEST_STEP = 2.0  # in pixels; what the linearisation can be trusted with


def dense_flow(frame: Frames, following: Frames) -> Array:
    """frame, following: [H, W, 3], uint8 -> flow from the first to the second: [2, H, W], float32, pixels (x, y)."""
    levels = [(luma(frame), luma(following))]
    while min(levels[-1][0].shape) >= 2 * COARSEST:
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    flow = np.zeros((2, *levels[-1][0].shape), np.float32)
    for first, second in reversed(levels):
        if flow.shape[1:] != first.shape:
            flow = np.stack([2 * _doubled(part, first.shape) for part in flow])
        flow = _refined(first, second, flow)
    return flow


def _refined(first: Array, second: Array, flow: Array) -> Array:
    """`flow` after some passes of Gauss-Newton on one level."""
    dy, dx = (np.asarray(slope) for slope in np.gradient(first))
    xx, yy, xy = _box(dx * dx) + STIFFNESS, _box(dy * dy) + STIFFNESS, _box(dx * dy)
    determinant = xx * yy - xy * xy
    rows, columns = np.mgrid[: first.shape[0], : first.shape[1]].astype(np.float32)
    for _ in range(PASSES):
        residual = first - _sampled(second, rows + flow[1], columns + flow[0])
        x, y = _box(dx * residual), _box(dy * residual)
        step = np.stack([(yy * x - xy * y) / determinant, (xx * y - xy * x) / determinant])
        flow = _box(flow + np.clip(step, -LONGEST_STEP, LONGEST_STEP))
    return flow


def _sampled(image: Array, y: Array, x: Array) -> Array:
    """`image` at fractional places, bilinear, its border continued outwards."""
    height, width = image.shape
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = np.minimum(y.astype(np.intp), height - 2), np.minimum(x.astype(np.intp), width - 2)
    y, x = y - top, x - left
    upper = image[top, left] * (1 - x) + image[top, left + 1] * x
    lower = image[top + 1, left] * (1 - x) + image[top + 1, left + 1] * x
    return np.asarray(upper * (1 - y) + lower * y, np.float32)


def _box(image: Array) -> Array:
    """Mean over a box of 2 * RADIUS + 1 pixels a side in the last two axes, by running sums."""
    for axis in (-2, -1):
        padding = [(RADIUS + 1, RADIUS) if a == axis else (0, 0) for a in range(-image.ndim, 0)]
        sums = np.cumsum(np.pad(image, padding, mode="edge"), axis=axis, dtype=np.float64)
        width = 2 * RADIUS + 1
        ahead, behind = np.split(sums, [width], axis=axis)[1], np.split(sums, [-width], axis=axis)[0]
        image = ((ahead - behind) / width).astype(np.float32)
    return image


def _halved(image: Array) -> Array:
    """Means of 2x2 pixels; an odd last row or column is dropped."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    blocks = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def _doubled(image: Array, shape: tuple[int, ...]) -> Array:
    """`image` on a level of `shape`, twice as fine."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    return _sampled(image, (rows - 0.5) / 2, (columns - 0.5) / 2)
