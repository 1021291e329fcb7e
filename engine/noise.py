"""All randomness of a run, keyed instead of drawn in order.

Every draw is named by (seed, stage, chunk, step) and comes from its own counter-based generator (Philox, Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3"). The same seed so gives the same noise on every backend, after a
resume, and on any number of GPUs.
"""

import hashlib
from typing import Protocol

import numpy as np

from stt2v.engine.backends.base import Array
from stt2v.engine.errors import UsageError

LARGEST_SEED = 2**63 - 1


def checked_seed(seed: int) -> int:
    """`seed` as it is. Raises UsageError outside [0, 2**63)."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UsageError(f"seed is {seed}, expected a whole number from 0 to {LARGEST_SEED}")
    return seed


class NoiseSource(Protocol):
    """Where the loop takes its randomness from."""

    def normal(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        """Unit Gaussian noise of `shape`, float32."""
        ...

    def uniform(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        """Uniform noise of `shape`, float32, in [0, 1)."""
        ...

    def integers(self, stage: str, chunk: int, step: int, low: int, high: int) -> int:
        """One integer in [low, high)."""
        ...


class OtherNoise:
    """The noise of attempt number `attempt` at the same thing, from keys that no other attempt uses."""

    def __init__(self, noise: NoiseSource, attempt: int) -> None:
        self._noise = noise
        self._suffix = f"/attempt {attempt}"

    def normal(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        return self._noise.normal(stage + self._suffix, chunk, step, shape)

    def uniform(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        return self._noise.uniform(stage + self._suffix, chunk, step, shape)

    def integers(self, stage: str, chunk: int, step: int, low: int, high: int) -> int:
        return self._noise.integers(stage + self._suffix, chunk, step, low, high)


class Noise:
    """The noise of one seed. Raises UsageError for a seed outside [0, 2**63)."""

    def __init__(self, seed: int) -> None:
        self.seed = checked_seed(seed)

    def normal(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        return self._generator(stage, chunk, step).standard_normal(shape, np.float32)

    def uniform(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        return self._generator(stage, chunk, step).random(shape, np.float32)

    def integers(self, stage: str, chunk: int, step: int, low: int, high: int) -> int:
        return int(self._generator(stage, chunk, step).integers(low, high))

    def _generator(self, stage: str, chunk: int, step: int) -> np.random.Generator:
        name = f"{self.seed}/{stage}/{chunk}/{step}".encode()
        key = int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
        return np.random.Generator(np.random.Philox(key=key))
