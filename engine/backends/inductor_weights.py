"""The weights of Inductor's engines, which lie in one file: mapped on a processor, brought to a card when needed."""

import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stt2v.engine.backends.inductor_card import SLACK, Card
from stt2v.engine.backends.residency import Needs, Residency
from stt2v.engine.spec import EngineSpec

TABLE, WEIGHTS = "weights.json", "weights.bin"
TABLES = 64  # how many are kept: those of a set
PIECE, PIECES = 64 << 20, 2  # bytes of a buffer that weights pass through, and how many there are


@dataclass(frozen=True)
class Row:
    """One weight: where it is in its file, and as what it is to be seen; strides are in elements."""

    path: Path
    offset: int
    bytes: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @cached_property
    def key(self) -> str:
        """The same for all engines that share it."""
        return f"{self.path} {self.offset} {self.dtype} {self.shape} {self.strides}"

    def seen(self, raw: Any) -> Any:
        """A flat tensor of its bytes as the weight."""
        import torch

        dtype = getattr(torch, self.dtype)
        if not self.bytes:
            return torch.empty_strided(self.shape, self.strides, dtype=dtype, device=raw.device)
        return raw.view(dtype).as_strided(self.shape, self.strides)


@dataclass(frozen=True)
class Table:
    """What an engine is called with, as its file says. `kernels`: it has kernels of our own."""

    rows: tuple[Row, ...]
    kernels: bool
    activation_bytes: int

    @classmethod
    def read(cls, engine: Path) -> "Table":
        """That of the engine at this path. Raises OSError, KeyError or BadZipFile for a damaged file."""
        status = engine.stat()
        return _table(engine, status.st_ino, status.st_size, status.st_mtime_ns)

    def needs(self, spec: EngineSpec) -> Needs:
        """What the engine takes of a card."""
        inputs = sum(tensor.nbytes for tensor in spec.inputs)
        return Needs({row.key: row.bytes for row in self.rows}, self.activation_bytes + inputs)


@lru_cache(TABLES)
def _table(engine: Path, *stamp: int) -> Table:
    """That of a file which looks like `stamp` from outside: a run asks for it four times, to plan and to load."""
    with zipfile.ZipFile(engine) as file:
        data = json.loads(file.read(TABLE))
    weights = engine.parent / WEIGHTS
    rows = tuple(
        Row(weights, row["offset"], row["bytes"], row["dtype"], tuple(row["shape"]), tuple(row["strides"]))
        for row in data["weights"]
    )
    return Table(rows, data["kernels"], data["activation_bytes"])


class Weights(Protocol):
    """Where engines get their weights from."""

    def of(self, name: str, table: Table, needs: Needs) -> list[Any]:
        """The weights of engine `name`, which runs next, as tensors. Raises OutOfMemoryError where they do not fit."""
        ...

    def expect(self, order: Sequence[tuple[str, Table, Needs]]) -> None:
        """Engines will be first used in this order; what there is room for beside the first may begin to come."""
        ...

    def ahead(self, name: str, needs: Needs) -> None:
        """Begin to bring weights of the engines expected after `name`, which runs, as far as there is room."""
        ...

    def release(self, table: Table) -> None:
        """These are not needed for now."""
        ...


class MappedWeights:
    """Weights in the memory of the host, where the system brings them from the file and drops them by itself."""

    def __init__(self) -> None:
        self._mapped: dict[str, Any] = {}

    def of(self, name: str, table: Table, needs: Needs) -> list[Any]:
        """See `Weights`."""
        for row in table.rows:
            if row.key not in self._mapped:
                self._mapped[row.key] = row.seen(_mapped(row))
        return [self._mapped[row.key] for row in table.rows]

    def expect(self, order: Sequence[tuple[str, Table, Needs]]) -> None:
        """See `Weights`: nothing has to be brought."""

    def ahead(self, name: str, needs: Needs) -> None:
        """See `Weights`: nothing has to be brought."""

    def release(self, table: Table) -> None:
        """See `Weights`: mapped pages are the system's."""


def _mapped(row: Row) -> Any:
    import torch

    # Copy on write, because PyTorch warns of memory that it must not write to.
    empty = not row.bytes
    return torch.from_numpy(
        np.empty(0, np.uint8) if empty else np.memmap(row.path, np.uint8, "c", row.offset, row.bytes)
    )


class CardWeights:
    """Weights on a card, as `residency` has it; the file is read through few pinned buffers by a thread of its own."""

    def __init__(self, residency: Residency, card: Card) -> None:
        self.residency = residency
        self._card = card
        self._there: dict[str, Any] = {}
        self._tables: dict[str, Table] = {}
        self._arriving: dict[Future[None], frozenset[str]] = {}  # the keys that each brings, in the order of begin
        self._thread = ThreadPoolExecutor(1, "weights")
        self._buffers: list[tuple[Any, Any]] = []  # each with the mark behind its last copy

    def of(self, name: str, table: Table, needs: Needs) -> list[Any]:
        """See `Weights`."""
        if self.residency.lacks(needs):  # what is on its way may have to go
            with suppress(Exception):  # what fails to come takes no room, and is told to its own engine
                self._arrived()
        move = self.residency.use(name, needs)
        if move.dropped:
            self._card.synchronize()  # an engine may still read them
            self._drop(move.dropped)
        self._bring(table, move.brought)
        self._arrived(needs.weights)
        return [self._there[row.key] for row in table.rows]

    def expect(self, order: Sequence[tuple[str, Table, Needs]]) -> None:
        """See `Weights`."""
        self._tables = {name: table for name, table, _ in order}
        self.residency.expect((name, needs) for name, _, needs in order)
        if order:  # none of them runs; the first is being loaded
            self.ahead("", order[0][2])

    def ahead(self, name: str, needs: Needs) -> None:
        """See `Weights`."""
        for following, move in self.residency.ahead(name, needs.beside):
            self._bring(self._tables[following], move.brought)

    def release(self, table: Table) -> None:
        """See `Weights`."""
        keys = [row.key for row in table.rows]
        with suppress(Exception):  # what fails to come is brought again, and told, when its engine runs
            self._arrived(keys)
        self._card.synchronize()
        self.residency.forget(keys)
        self._drop(keys)

    def refit(self) -> bool:
        """Drop all weights and count on what the card then has free; whether that is less than before."""
        with suppress(Exception):  # what was on its way is not needed any more
            self._arrived()
        self._card.synchronize()
        self.residency.keep(())
        self._there.clear()
        before, free = self.residency.budget, self._card.free() - SLACK
        self.residency.budget = free if before is None else min(before, free)
        return before is None or self.residency.budget < before

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._there.pop(key, None)

    def _bring(self, table: Table, keys: Sequence[str]) -> None:
        wanted = {*keys}
        rows = {row.key: row for row in table.rows if row.key in wanted}
        if rows:
            self._arriving[self._thread.submit(self._copy, rows)] = frozenset(rows)

    def _arrived(self, keys: Iterable[str] | None = None) -> None:
        """Wait for those of these keys that are on their way, or for all that are.

        Raises what went wrong; what is then not there is no longer counted.
        """
        try:
            for each, brought in [*self._arriving.items()]:
                if keys is None or not brought.isdisjoint(keys):
                    each.result()
                    del self._arriving[each]
        except BaseException:
            wait(self._arriving)
            self._arriving.clear()
            self.residency.keep(self._there)
            raise

    def _copy(self, rows: Mapping[str, Row]) -> None:
        """Bring the rows, which are of one file; on the thread."""
        if not self._buffers:
            self._buffers = [(self._card.pinned(PIECE), None) for _ in range(PIECES)]
        with next(iter(rows.values())).path.open("rb", buffering=0) as file, self._card.copying():
            for key, row in rows.items():
                self._there[key] = row.seen(self._read(file.fileno(), row))

    def _read(self, file: int, row: Row) -> Any:
        raw = self._card.empty(row.bytes)
        for start in range(0, row.bytes, PIECE):
            buffer, mark = self._buffers.pop(0)
            if mark is not None:
                mark.synchronize()
            piece = buffer[: min(PIECE, row.bytes - start)]
            _fill(piece.numpy(), file, row.offset + start)
            raw[start : start + len(piece)].copy_(piece, non_blocking=True)
            self._buffers.append((buffer, self._card.mark()))
        return raw


def _fill(target: Any, file: int, offset: int) -> None:
    """Read as many bytes from `offset` as `target` holds. Raises OSError when there are fewer."""
    done, view = 0, memoryview(target)
    while done < len(view):
        count = os.preadv(file, [view[done:]], offset + done)
        if not count:
            raise OSError("the file of the weights ends too early")
        done += count
