"""The base video of a run: its chunks as units, and its frames by index, however many there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from stt2v.engine.backends.base import Array, Frames
from stt2v.engine.loop import Handover
from stt2v.engine.models.model import Model
from stt2v.engine.plan import ChunkPlan
from stt2v.engine.runs.arrays import load_array, load_slice, save_arrays
from stt2v.engine.runs.run import Run
from stt2v.engine.stages.decode import to_uint8

CHUNK = "chunk-"


def chunk_unit(index: int) -> str:
    """The name of chunk `index`."""
    return f"{CHUNK}{index:04}.safetensors"


@dataclass(frozen=True)
class Chunks:
    """The first `count` frames of the chunks in `plan` by index, [H, W, 3], uint8 each; none stays in memory.

    Beside its pictures, a chunk keeps what the next one is conditioned on, as exact as it was decoded: its last frames,
    and the first chunk the anchor.
    """

    run: Run
    model: Model
    plan: Sequence[ChunkPlan]
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Frames:
        chunk = next(chunk for chunk in self.plan if index < chunk.stop)
        place = index - chunk.start
        frame: Frames = load_slice(self._path(chunk.index), "frames", place, place + 1)[0]
        return frame

    def frames(self, index: int) -> Frames:
        """The new frames of chunk `index`: [n, H, W, 3], uint8."""
        return load_array(self._path(index), "frames")

    @property
    def finished(self) -> int:
        """How many chunks there are before the first that is missing."""
        return next((c.index for c in self.plan if not self.run.has(chunk_unit(c.index))), len(self.plan))

    def handover(self) -> Handover | None:
        """What the first missing chunk goes on from; None when it is the first of all."""
        finished = self.finished
        if not finished:
            return None
        return Handover(finished, load_array(self._path(finished - 1), "control"), load_array(self._path(0), "anchor"))

    def keep(self, index: int, frames: Array) -> None:
        """Finish chunk `index`: its new frames, [n, 3, H, W], float32, in [-1, 1]. Who makes them calls `tell`."""
        arrays: dict[str, NDArray[Any]] = {"frames": to_uint8(frames), "control": frames[-self.model.conditional :]}
        if index == 0:
            arrays["anchor"] = frames[self.model.anchor][None]
        with self.run.making(chunk_unit(index)) as path:
            save_arrays(path, arrays)

    def tell(self, index: int) -> None:
        """Let whoever watches the run hear of chunk `index`, which is finished or about to be."""
        self.run.on_unit(chunk_unit(index))

    def _path(self, index: int) -> Path:
        return self.run.path(chunk_unit(index))
