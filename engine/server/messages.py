"""What a worker tells its server of the video that it makes."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Forecast:
    """What each stage should take, in seconds, 0 where that is not known; steps: of the first, for the whole video."""

    seconds: Mapping[str, float]
    steps: int


@dataclass(frozen=True)
class StageBegun:
    """See `Progress.stage`."""

    name: str
    total: int


@dataclass(frozen=True)
class Advanced:
    """See `Progress.advance`."""

    name: str
    steps: int


@dataclass(frozen=True)
class Died:
    """The worker has died; said by its attendant, because it cannot."""


@dataclass(frozen=True)
class Done:
    """The video is whole."""

    frames: int


@dataclass(frozen=True)
class Stopped:
    """The worker was told to stop; what is finished is kept."""


@dataclass(frozen=True)
class Failed:
    """The video cannot be made."""

    error: str


News = Forecast | StageBegun | Advanced | Died
Outcome = Done | Stopped | Failed
