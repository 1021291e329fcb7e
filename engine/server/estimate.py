"""How far a video is, and how long it still takes: by what its stages should take, corrected by what they took."""

import time
from collections.abc import Callable

from stt2v.engine.server.messages import Advanced, Forecast, News, StageBegun

PATIENCE = 0.1  # of the whole forecast: how much has to be done before its own speed counts as much as the forecast's
FIRST = "generate"


class Estimate:
    """Hears what a worker tells of one video; times are the clock's. One thread may hear while others ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.stage: str | None = None
        self._clock = clock
        self._forecast = Forecast({}, 0)
        self._shares: dict[str, float] = {}
        self._rates: dict[str, float] = {}
        self._began, self._found = clock(), 0.0

    def hear(self, news: News) -> None:
        """Take in what the worker tells."""
        match news:
            case Forecast():
                self.stage, self._forecast, self._shares = None, news, dict.fromkeys(news.seconds, 0.0)
            case StageBegun(name, total):
                self._begin(name, total)
            case Advanced(name, steps):
                self._share(name, self._shares.get(name, 0.0) + steps * self._rates.get(name, 0.0))

    @property
    def percent(self) -> int:
        """What is done, 0 to 99; 100 is a whole video."""
        whole = self._whole
        return min(99, round(100 * self._done / whole)) if whole else 0

    @property
    def seconds_left(self) -> float | None:
        """What is to be expected; None where nothing is known."""
        whole, done, here = self._whole, self._done, self._done - self._found
        trust = PATIENCE * whole if any(self._forecast.seconds.values()) else 0.0
        if here + trust <= 0:
            return None
        return (whole - done) * (self._clock() - self._began + trust) / (here + trust)

    def _begin(self, name: str, total: int) -> None:
        """A stage begins; of the first one, what a run has kept is done already."""
        if self.stage is None:
            self._began = self._clock()
        kept = 1 - total / self._forecast.steps if name == FIRST and self._forecast.steps else 0.0
        self.stage = name
        self._share(name, max(0.0, kept))
        self._rates[name] = (1 - self._shares[name]) / max(1, total)
        if name == FIRST:
            self._found = self._done

    def _share(self, name: str, done: float) -> None:
        """So much of a stage is done; in a new mapping, because others may be going through the old one."""
        self._shares = {**self._shares, name: min(1.0, done)}

    @property
    def _whole(self) -> float:
        return sum(map(self._weight, self._shares))

    @property
    def _done(self) -> float:
        return sum(self._weight(name) * share for name, share in self._shares.items())

    def _weight(self, stage: str) -> float:
        """The seconds of a stage, or as much as any other where none are known."""
        return self._forecast.seconds.get(stage, 0.0) if any(self._forecast.seconds.values()) else 1.0
