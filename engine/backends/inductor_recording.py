"""How the compiled graphs of Inductor's engines are called: as they are, or recorded by a card and replayed."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from stt2v.engine.backends.inductor_card import Card
from stt2v.engine.backends.residency import Needs, Residency

Function = Callable[..., Sequence[Any]]
RECORDED = 2  # the run of an engine that is recorded: in its first one kernels are loaded
LARGEST = 4 << 30
"""Bytes beside weights of an engine that is recorded. In larger ones kernels take longer than to launch them; a step of
StreamingSVD, with 3 GiB, takes 394.9 ms recorded and 397.3 not, in FP8 298.1 and 304.4 (H100)."""
TIMES = 2  # what an engine takes beside its weights, a recording takes at most


class Runner(Protocol):
    """Calls engines by their names."""

    def needs(self, name: str, needs: Needs) -> Needs:
        """What engine `name` takes in its next run, if it takes `needs` where nothing is recorded."""
        ...

    def run(
        self, name: str, needs: Needs, function: Function, weights: Sequence[Any], inputs: Sequence[Any]
    ) -> Sequence[Any]:
        """The outputs of engine `name`, which takes `needs` by itself; no later run writes over them."""
        ...

    def forget(self, name: str) -> None:
        """Engine `name` is closed."""
        ...

    def give_up(self) -> bool:
        """Memory is short: do without what can be done without. Returns whether there was something."""
        ...


class Plainly:
    """Calls the graph each time."""

    def needs(self, name: str, needs: Needs) -> Needs:
        """See `Runner`."""
        return needs

    def run(
        self, name: str, needs: Needs, function: Function, weights: Sequence[Any], inputs: Sequence[Any]
    ) -> Sequence[Any]:
        """See `Runner`."""
        return function(*weights, *inputs)

    def forget(self, name: str) -> None:
        """See `Runner`."""

    def give_up(self) -> bool:
        """See `Runner`."""
        return False


@dataclass(frozen=True)
class Recording:
    """One run in a card's memory: a replay reads the same weights and inputs, and writes the same outputs."""

    places: tuple[int, ...]
    inputs: Sequence[Any]
    outputs: Sequence[Any]
    launch: Callable[[], None]

    @classmethod
    def of(
        cls, card: Card, pool: Any, function: Function, weights: Sequence[Any], inputs: Sequence[Any]
    ) -> "Recording":
        """Record a run of `function`, which is not computed yet, in memory of `pool`."""
        held = [tensor.clone() for tensor in inputs]
        launch, outputs = card.record(lambda: function(*weights, *held), pool)
        return cls(_places(weights), held, outputs, launch)

    def replay(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs for other inputs: copies, because the next replay writes over them."""
        for held, given in zip(self.inputs, inputs, strict=True):
            held.copy_(given)
        self.launch()
        return [output.clone() for output in self.outputs]


class Recorder:
    """Records an engine's second run as a CUDA graph and replays it, so that short kernels do not wait for the host.

    All recordings share the memory for what they compute in between, which is taken off what there is for weights.
    Where weights would have to go for an engine, all recordings do, and what was recorded once is called plainly.
    """

    def __init__(self, residency: Residency, card: Card) -> None:
        self._residency = residency
        self._card = card
        self._recordings: dict[str, Recording] = {}
        self._pool: Any = None
        self._runs = Counter[str]()
        self._taken = 0

    def needs(self, name: str, needs: Needs) -> Needs:
        """See `Runner`: what is recorded has its memory already."""
        taken = replace(needs, beside=0) if name in self._recordings else needs
        if self._recordings and self._residency.lacks(taken):
            self.give_up()
            return needs
        return taken

    def run(
        self, name: str, needs: Needs, function: Function, weights: Sequence[Any], inputs: Sequence[Any]
    ) -> Sequence[Any]:
        """See `Runner`."""
        recording = self._recordings.get(name)
        if recording and recording.places == _places(weights):
            return recording.replay(inputs)
        self._runs[name] += 1
        if self._runs[name] == RECORDED and self._may_record(needs):
            return self._record(name, function, weights, inputs).replay(inputs)
        return function(*weights, *inputs)

    def forget(self, name: str) -> None:
        """See `Runner`."""
        del self._runs[name]
        if self._recordings.pop(name, None) and not self._recordings:
            self.give_up()

    def give_up(self) -> bool:
        """See `Runner`: all recordings go, because they share their memory."""
        were = bool(self._recordings)
        self._recordings.clear()
        self._take(-self._taken)
        return were

    def _may_record(self, needs: Needs) -> bool:
        """Whether it is worth it, and no weights would have to go for it."""
        return needs.beside <= LARGEST and not self._residency.lacks(replace(needs, beside=TIMES * needs.beside))

    def _record(self, name: str, function: Function, weights: Sequence[Any], inputs: Sequence[Any]) -> Recording:
        if not self._recordings:
            self._pool = self._card.pool()
        before = self._card.reserved()
        recording = self._recordings[name] = Recording.of(self._card, self._pool, function, weights, inputs)
        self._take(self._card.reserved() - before)
        return recording

    def _take(self, nbytes: int) -> None:
        self._taken += nbytes
        if self._residency.budget is not None:
            self._residency.budget -= nbytes


def _places(weights: Sequence[Any]) -> tuple[int, ...]:
    return tuple(weight.data_ptr() for weight in weights)
