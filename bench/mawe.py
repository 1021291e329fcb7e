"""Motion aware warp error of a video file, with RAFT's flow where it is installed and a classical one otherwise."""

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise, tee
from pathlib import Path
from typing import Any, Literal

from stt2v.engine import flow as classical
from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.errors import ExportError, UsageError
from stt2v.engine.media.read import count_frames, read_frames
from stt2v.engine.metrics import Mawe, PairFigures, mawe, resized
from stt2v.engine.progress import Progress

Flow = Callable[[Frames, Frames], Array]
FlowName = Literal["raft", "classical"]


@dataclass(frozen=True)
class MaweReport:
    """The metric of one video and how it came about; `flow` names the method and decides what it compares with."""

    video: Path
    flow: str
    coefficient: float
    result: Mawe

    def lines(self) -> list[str]:
        """The result in words."""
        frames = len(self.result.pairs) + 1
        with_raft = self.flow != classical.NAME
        return [
            f"{self.video}: MAWE {self.result.value:.4g}, lower is better ({frames} frames, flow by {self.flow},"
            f" coefficient {self.coefficient:g})",
            *([self.result.note] if self.result.note else []),
            *([] if with_raft else ["published values are made with RAFT's flow: compare this one with its own kind"]),
        ]

    def to_json(self) -> dict[str, Any]:
        """The result with the table of its pairs. JSON has no nan and no inf: they are strings."""
        return {
            "video": str(self.video),
            "mawe": _plain(self.result.value),
            "note": self.result.note,
            "flow": self.flow,
            "coefficient": self.coefficient,
            "frames": len(self.result.pairs) + 1,
            "pairs": [
                {"frame": index, **asdict(pair), "mawe": _plain(_ratio(pair, self.coefficient))}
                for index, pair in enumerate(self.result.pairs)
            ],
        }


def measure(video: Path, wanted: FlowName | None, coefficient: float, progress: Progress) -> MaweReport:
    """The metric of `video`; `wanted` chooses the flow, None takes RAFT's where library and weights are present.

    Raises InputError for what is no video, UsageError for one frame or an impossible coefficient, ExportError when
    RAFT is wanted and missing.
    """
    if not (math.isfinite(coefficient) and coefficient > 0):
        raise UsageError(f"coefficient is {coefficient:g}, expected a number above 0, such as 9.5")
    total = count_frames(video) - 1
    name, flow = _open_flow(wanted)
    frames, again = tee(map(resized, read_frames(video)))
    progress.stage("flow", total)
    return MaweReport(video, name, coefficient, mawe(frames, _flows(again, flow, progress), coefficient))


def _flows(frames: Iterator[Frames], flow: Flow, progress: Progress) -> Iterator[Array]:
    for first, second in pairwise(frames):
        yield flow(first, second)
        progress.advance("flow")


def _open_flow(wanted: FlowName | None) -> tuple[str, Flow]:
    if wanted != "classical" and importlib.util.find_spec("torchvision"):
        from stt2v.bench import raft

        if wanted == "raft" or raft.is_downloaded():
            return raft.NAME, raft.open_raft()
    if wanted == "raft":
        raise ExportError("RAFT's flow needs torchvision, which is not installed; pip install 'stt2v[raft]'")
    return classical.NAME, classical.dense_flow


def _ratio(pair: PairFigures, coefficient: float) -> float:
    if pair.motion:
        return pair.warp_error / (coefficient * pair.motion)
    return math.inf if pair.warp_error else math.nan


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
