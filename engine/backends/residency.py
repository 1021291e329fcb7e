"""Which weights lie on a card: those used last, as many as fit beside what the next engine needs.

Pure accounting: the backend does with the bytes what is decided here, and the plan of a run asks the same rules first.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from stt2v.engine.errors import OutOfMemoryError
from stt2v.engine.size import in_words


@dataclass(frozen=True)
class Needs:
    """What one engine takes of a card: its weights, bytes by key, which other engines may share; and what it takes
    `beside` them while it runs."""

    weights: Mapping[str, int]
    beside: int

    @property
    def nbytes(self) -> int:
        """The least memory in which the engine runs."""
        return sum(self.weights.values()) + self.beside


@dataclass(frozen=True)
class Move:
    """Keys of weights that go before an engine runs, and of those that are brought, in their order."""

    dropped: tuple[str, ...]
    brought: tuple[str, ...]


NOTHING = Move((), ())


class Residency:
    """The weights on a card. budget: bytes for them and for what runs beside them; None: as many as there are."""

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.peak = self.moved = 0  # the most bytes at once; bytes brought in all
        self._last: str | None = None  # the engine whose weights are all there
        self._looked = False  # ahead of it
        self._expected: list[tuple[str, Needs]] = []
        self._held: dict[str, int] = {}  # in the order of their last use

    @property
    def held(self) -> int:
        """Bytes of the weights that are there."""
        return sum(self._held.values())

    def use(self, name: str, needs: Needs) -> Move:
        """Make room for a run of engine `name`: weights that were not used for longest go, its own come.

        Raises OutOfMemoryError, with everything as it was, when the engine does not fit even by itself.
        """
        if name == self._last:
            return NOTHING
        if self.budget is not None and needs.nbytes > self.budget:
            raise OutOfMemoryError(
                f"engine {name!r} takes {in_words(needs.nbytes)} of the card's memory, {in_words(self.budget)} are for "
                "it; free some, raise --vram or use smaller sizes"
            )
        brought = self._missing(needs)
        for key in needs.weights:
            if key in self._held:
                self._held[key] = self._held.pop(key)
        dropped = tuple(self._superfluous(needs, sum(brought.values())))
        self.forget(dropped)
        self._hold(brought, needs.beside)
        self._last, self._looked = name, False
        return Move(dropped, tuple(brought))

    def lacks(self, needs: Needs) -> bool:
        """Whether weights would have to go for an engine with these needs to run."""
        brought = sum(self._missing(needs).values())
        return self.budget is not None and self.held + brought + needs.beside > self.budget

    def expect(self, order: Iterable[tuple[str, Needs]]) -> None:
        """Engines will be first used in this order, as far as is known."""
        self._expected, self._looked = [*order], False

    def ahead(self, name: str, beside: int) -> tuple[tuple[str, Move], ...]:
        """What can come while engine `name` runs, which takes `beside`, with nothing going: by engine, the next first.

        An engine whose weights do not fit, and those after it, wait.
        """
        if self._looked:
            return ()
        self._looked = True
        names = [expected for expected, _ in self._expected]
        if name in names:
            del self._expected[: names.index(name) + 1]
        moves = []
        while self._expected:
            following, needs = self._expected[0]
            if self.lacks(Needs(needs.weights, beside)):
                break
            brought = self._missing(needs)
            self._hold(brought, beside)
            moves.append((following, Move((), tuple(brought))))
            del self._expected[0]
        return tuple(moves)

    def keep(self, keys: Container[str]) -> None:
        """Forget all other weights."""
        self._last = None
        self._held = {key: size for key, size in self._held.items() if key in keys}

    def forget(self, keys: Iterable[str]) -> None:
        """Those weights are no longer there."""
        self._last = None
        for key in keys:
            self._held.pop(key, None)

    def _missing(self, needs: Needs) -> dict[str, int]:
        return {key: size for key, size in needs.weights.items() if key not in self._held}

    def _hold(self, brought: Mapping[str, int], beside: int) -> None:
        self._held |= brought
        self.moved += sum(brought.values())
        self.peak = max(self.peak, self.held + beside)

    def _superfluous(self, needs: Needs, brought: int) -> Iterable[str]:
        if self.budget is None:
            return
        over = self.held + brought + needs.beside - self.budget
        for key, size in self._held.items():
            if over <= 0:
                return
            if key not in needs.weights:
                over -= size
                yield key
