"""Sends synthetic frames of 1280x720 through every stage and prints the most memory that it took, in MiB.

    python tests/frame_path.py NUM_FRAMES OUTPUT

The engines are those of `tiny` by name and number of frames, of full size, and made of cheap arithmetic. Each segment
is closed when as many frames wait for the encoder as may, so that the peak is not left to two threads.
"""

import resource
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import TracebackType
from unittest.mock import patch

import numpy as np

from stt2v.engine.backends.base import Array, Engine
from stt2v.engine.backends.fake import FakeEngine
from stt2v.engine.backends.host import HostArrays
from stt2v.engine.engine_set import EngineSet
from stt2v.engine.media.video import VideoWriter
from stt2v.engine.models.tiny import TINY
from stt2v.engine.progress import Silent
from stt2v.engine.request import Request
from stt2v.engine.session import Session
from stt2v.engine.spec import EngineSpec, TensorSpec
from stt2v.engine.store import SHIPPED
from stt2v.engine.videos import generate_video

SIZE, REFINED = (640, 360), (1280, 720)
SIZES = {(64, 128): SIZE, (128, 256): REFINED}
SCALED = {
    **{small: size[::-1] for small, size in SIZES.items()},
    **{(h // 8, w // 8): (size[1] // 8, size[0] // 8) for (h, w), size in SIZES.items()},
}
MODEL = replace(TINY, width=SIZE[0], height=SIZE[1], enhancing=replace(TINY.enhancing, width=1280, height=720))


PAUSE = 6  # seconds, in which as many frames are made as may wait


class SlowWriter(VideoWriter):
    """Pauses before it encodes what it looked ahead to."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        time.sleep(PAUSE)
        super().__exit__(kind, error, trace)


def main(num_frames: int, output: Path) -> None:
    """Make the video and print the peak."""
    with EngineSet.open(SHIPPED / "tiny") as tiny:
        specs = [scaled(entry.spec) for entry in tiny.manifest.engines]
        engines: dict[str, Engine] = {spec.name: FakeEngine(spec, waves) for spec in specs}
        session = Session(MODEL, engines, tiny.tokenizers)
        picture = Path(__file__).parent / "data" / "landscape.jpg"
        with patch("stt2v.engine.film.VideoWriter", SlowWriter):
            generate_video(session, Request(image=picture, num_frames=num_frames), output, Silent())
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}\n")


def scaled(spec: EngineSpec) -> EngineSpec:
    """The same border with pictures and latents of full size."""
    inputs, outputs = (
        tuple(
            TensorSpec(each.name, each.dtype, (*each.shape[:-2], *SCALED.get(each.shape[-2:], each.shape[-2:])))
            for each in tensors
        )
        for tensors in (spec.inputs, spec.outputs)
    )
    name = spec.name.replace("256x128", "1280x720").replace("128x64", "640x360")
    return EngineSpec(name, inputs, outputs)


def waves(spec: EngineSpec, inputs: HostArrays) -> HostArrays:
    """A wave, moved by what comes in."""
    moved = np.float32(sum(float(array.reshape(-1)[::97].mean()) for array in inputs.values()))
    return {each.name: (np.sin(ramp(each.shape) + moved) + 1) / 2 for each in spec.outputs}


@cache
def ramp(shape: tuple[int, ...]) -> Array:
    return np.linspace(0, 20, int(np.prod(shape)), dtype=np.float32).reshape(shape)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
