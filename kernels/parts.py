"""Maps cut into parts: boxes that cover them, and the moments of each channel within each.

Moments are the mean, and the sum of squared distances from it. Those of parts are merged by the parallel algorithm of
Chan, Golub and LeVeque (1983), which keeps its precision where the mean is far from zero. So a map may be cut in any
way, by many blocks at once, or by whoever writes it.
"""

import functools
import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional


@functools.cache  # each launch asks
def box(shape: tuple[int, ...], pixels: int) -> tuple[int, ...]:
    """The frames, rows and columns of tiles of so many pixels that cover maps of `shape` with the least left over."""
    sides = [1 << power for power in range(pixels.bit_length())]
    boxes = (sizes for sizes in itertools.product(sides, repeat=3) if math.prod(sizes) == pixels)
    return min(boxes, key=lambda sizes: (math.prod(tiles(shape, sizes)), sizes))


def tiles(shape: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    """How many boxes of these sizes it takes to cover `shape`, along each axis."""
    return [-(-whole // part) for whole, part in zip(shape, sizes, strict=True)]


def moments_reference(maps: Tensor, rows: int, width: int) -> tuple[Tensor, Tensor]:
    """maps: [N, C, H, W], cut into boxes of rows by width pixels, I down and J across; smaller ones at the edges.

    Returns moments: [2, N, I, J, C], means and sums of squares; counts: [N, I, J], pixels of each box.
    """
    edges = (0, -maps.shape[3] % width, 0, -maps.shape[2] % rows)
    values, inside = (
        functional.pad(x, edges).unflatten(3, (-1, width)).unflatten(2, (-1, rows))
        for x in (maps, torch.ones_like(maps[:, :1]))
    )
    counts = inside.sum((3, 5))
    means = values.sum((3, 5)) / counts
    distances = (values - means[:, :, :, None, :, None]) * inside
    return torch.stack([means, distances.square().sum((3, 5))]).permute(0, 1, 3, 4, 2).contiguous(), counts[:, 0]


def empty_moments(maps: Tensor, rows: int, width: int) -> tuple[Tensor, Tensor]:
    """Room for what `moments_reference` gives."""
    batch, channels, height, across = maps.shape
    counts = torch.empty(batch, -(-height // rows), -(-across // width), device=maps.device, dtype=torch.float32)
    return counts.new_empty(2, *counts.shape, channels), counts
