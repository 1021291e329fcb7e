"""How the jobs of a batch ended."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["made", "shortened", "there", "failed"]
WORDS: dict[State, str] = {
    "made": "made",
    "shortened": "ended early",
    "there": "made before",
    "failed": "failed",
}


@dataclass(frozen=True)
class Outcome:
    """job: its video, or where it is listed; there: an earlier call has made it; problem: why it failed."""

    job: str
    state: State
    problem: str | None = None


@dataclass(frozen=True)
class BatchReport:
    """All that ended, of `total` jobs; the rest is left for another call."""

    outcomes: Sequence[Outcome]
    total: int
    seconds: float

    @property
    def left(self) -> int:
        """How many jobs have not ended."""
        return self.total - len(self.outcomes)

    def of(self, state: State) -> list[str]:
        """The jobs that ended so."""
        return [outcome.job for outcome in self.outcomes if outcome.state == state]

    def line(self) -> str:
        """The summary in words."""
        counts = Counter(outcome.state for outcome in self.outcomes)
        parts = [f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state]]
        left = [f"{self.left} left"] if self.left else []
        return f"{self.total} videos: {', '.join(parts + left)}, in {self.seconds:.1f} s"

    def to_json(self) -> dict[str, Any]:
        """The summary for machines."""
        return {
            "jobs": [asdict(outcome) for outcome in self.outcomes],
            "left": self.left,
            "seconds": round(self.seconds, 2),
        }

    def problems(self) -> Iterator[str]:
        """A line for each job that failed."""
        return (f"{outcome.job}: {outcome.problem}" for outcome in self.outcomes if outcome.state == "failed")
