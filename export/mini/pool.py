"""A store of training clips on the device that is renewed bit by bit: rendering and encoding cost more than reading."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor

from stt2v.export.mini.data import Batch, batches
from stt2v.export.mini.training import Run

RENEWED = 4  # one clip of a batch in so many is new; the others are drawn from the pool


@dataclass(frozen=True)
class Rows:
    """Clips as tensors with one row a clip."""

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    def at(self, index: Tensor) -> Self:
        """Some of them."""
        return type(self)(**{name: value[index] for name, value in vars(self).items()})

    def replace(self, index: Tensor, new: Self) -> None:
        """Overwrite some of them."""
        for name, value in vars(self).items():
            value[index] = getattr(new, name)

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """All rows of all parts."""
        columns: list[dict[str, Tensor]] = [vars(part) for part in parts]
        return cls(**{name: torch.cat([column[name] for column in columns]) for name in columns[0]})


T = TypeVar("T", bound=Rows)


class Pool(Generic[T]):
    """At least `size` clips, made of training scenes by `make`, from which batches are drawn."""

    def __init__(self, make: Callable[[Batch], T], batch: int, size: int, run: Run, seed: int) -> None:
        self._make, self._batch = make, batch
        self._fresh = batches(max(batch // RENEWED, 1), seed, run.device)
        first = batches(batch, seed + 1000, run.device)
        rounds = size // batch if run.device == "cuda" else 1
        self._clips = type(first_part := make(next(first))).joined(
            [first_part, *(make(next(first)) for _ in range(rounds - 1))]
        )
        self._next = 0

    def draw(self) -> T:
        """One batch; also renews a part of the pool."""
        new, device = self._make(next(self._fresh)), next(iter(vars(self._clips).values())).device
        places = (self._next + torch.arange(len(new), device=device)) % len(self._clips)
        self._clips.replace(places, new)
        self._next = (self._next + len(places)) % len(self._clips)
        return self._clips.at(torch.randint(len(self._clips), (self._batch,), device=device))
