"""Seeded random weights: the recipe by which reference data was made, and weights for tests and trials."""

import zlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LARGE = 1 << 18  # elements; every tensor of a toy has fewer


def recipe(seed: int, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The tensor called `name` (with its full prefix) of the random weights `seed`.

    Nothing is zero, norm gains are near one and matrices keep the scale of their input, so every path of a network
    contributes and none explodes.
    """
    random = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()) & 0xFFFFFFFF)
    values = random.standard_normal(int(np.prod(shape)) if shape else 1).astype(np.float32).reshape(shape)
    if name.endswith("mix_factor"):
        values = 0.8 * values
    elif len(shape) <= 1 and name.endswith("weight"):
        values = 1.0 + 0.1 * values
    elif len(shape) <= 1:
        values = 0.05 * values
    else:
        values = values * np.float32(1.0 / np.sqrt(int(np.prod(shape[1:]))))
    return np.asarray(values, np.float32).reshape(shape)


def random_state(shapes: Mapping[str, tuple[int, ...]], seed: int, prefix: str = "") -> dict[str, Tensor]:
    """Random weights for every key in `shapes`, with `prefix + key` as the name: by the recipe, or slanted."""
    return {key: _tensor(seed, prefix + key, shape) for key, shape in shapes.items()}


def _tensor(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    if len(shape) > 1 and int(np.prod(shape)) > LARGE:
        return slanted(seed, name, shape)
    return torch.from_numpy(recipe(seed, name, shape))


def slanted(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """A large tensor whose rows are one row of noise seen ever one place further on (a Hankel matrix).

    By the recipe, the networks of a published model would take minutes and more memory than many machines have. This
    takes next to none of either, and every row is another one.
    """
    width = int(np.prod(shape[1:]))
    random = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()) & 0xFFFFFFFF)
    noise = random.standard_normal(shape[0] + width - 1) / np.sqrt(width)
    return torch.from_numpy(noise.astype(np.float32)).unfold(0, width, 1).view(shape)
