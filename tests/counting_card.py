"""A stand-in for a card, in the memory of the host, that counts what is taken of it and given back."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass
class Pool:
    """Memory that recordings share, which ends with the last of them."""

    users: "weakref.WeakSet[Any]" = field(default_factory=weakref.WeakSet)
    used: bool = False


class CountingCard:
    """See `stt2v.engine.backends.inductor_card.Card`; more than its capacity it does not give."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.held, self.peak, self.replays = capacity, 0, 0, 0

    def empty(self, nbytes: int) -> Any:
        if self.held + nbytes > self.capacity:
            raise torch.OutOfMemoryError("full")
        self.held += nbytes
        self.peak = max(self.peak, self.held)
        memory = np.empty(nbytes, np.uint8)
        weakref.finalize(memory, self._give_back, nbytes)
        return torch.from_numpy(memory)

    def pinned(self, nbytes: int) -> Any:
        return torch.empty(nbytes, dtype=torch.uint8)

    @contextmanager
    def copying(self) -> Iterator[None]:
        yield

    def mark(self) -> Any:
        return None

    def synchronize(self) -> None:
        pass

    def free(self) -> int:
        return self.capacity - self.held

    def reserved(self) -> int:
        return self.held

    def pool(self) -> Any:
        return Pool()

    def record(self, function: Callable[[], Sequence[Any]], pool: Any) -> tuple[Callable[[], None], Sequence[Any]]:
        """Outputs hold nothing of use until they are computed; they count as memory of the card."""
        assert pool.users or not pool.used, "the pool ended with its last recording"
        outputs = [self.empty(output.nbytes).view(output.dtype).reshape(output.shape).fill_(7) for output in function()]

        def launch() -> None:
            self.replays += 1
            for held, output in zip(outputs, function(), strict=True):
                held.copy_(output)

        pool.used = True
        pool.users.add(launch)
        return launch, outputs

    def _give_back(self, nbytes: int) -> None:
        self.held -= nbytes
