"""One video in the making: the frames of its plan, encoded beside their making, segment by segment into its run."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stt2v.engine.backends.base import Frames
from stt2v.engine.belt import belt
from stt2v.engine.errors import OutOfMemoryError
from stt2v.engine.media.video import AHEAD, VideoWriter
from stt2v.engine.pipeline import OnBase
from stt2v.engine.plan import RunPlan, end_after, output_frame
from stt2v.engine.progress import Progress
from stt2v.engine.request import Settings
from stt2v.engine.runs.arrays import load_array, save_arrays
from stt2v.engine.runs.chunks import Chunks
from stt2v.engine.runs.run import Run
from stt2v.engine.session import Session

STILL = "still.safetensors"


@dataclass(frozen=True)
class Film:
    """Who makes the video, what it should be, who watches, and what is finished of it."""

    session: Session
    settings: Settings
    progress: Progress
    on_base: OnBase
    run: Run

    def segments(self, plan: RunPlan) -> list[Path]:
        """The encoded segments of the whole video, in their order, made where the run does not have them.

        When memory runs out, the session steps down to what takes less and gives the same, if it can.
        """
        while True:
            try:
                return [self.run.path(unit) for unit in self._units(plan)]
            except OutOfMemoryError as error:
                if not (words := self.session.step_down()):
                    raise
                self.progress.note(f"{error}; {words}, and goes on from the last finished unit")

    def ended(self, plan: RunPlan) -> RunPlan:
        """The plan of the video that ends with the chunks that there are."""
        finished = Chunks(self.run, self.session.model, plan.chunks, plan.clip_frames).finished
        shorter = end_after(self.session.model, self.settings, plan, finished)
        if shorter != plan:
            self.progress.note(f"the video ends after {shorter.num_frames} of {plan.num_frames} frames")
        return shorter

    def _units(self, plan: RunPlan) -> Sequence[str]:
        pipeline = self.session.pipeline(self.settings, plan, self.progress, self.on_base)
        length = output_frame(pipeline.segment, plan.interpolate)
        units = [f"{plan.folder}/segment-{number:04}.mp4" for number in range(-(-plan.num_frames // length))]
        done = len(list(itertools.takewhile(self.run.has, units)))
        if done < len(units):
            on_step = self.session.on_step(self.progress)
            blocks = pipeline.frames(self.run, self._picture(), on_step, done * pipeline.segment)
            with belt(partial(self._encode, plan, units[done:], length), AHEAD) as put:
                for frame in itertools.chain.from_iterable(blocks):
                    put(frame)
        else:
            pipeline.show(self.run)
        return units

    def _encode(self, plan: RunPlan, units: Sequence[str], length: int, frames: Iterator[Frames]) -> None:
        """Finish `units` of `length` frames, the last of what is left; each is begun when its first frame comes."""
        for unit, first in zip(units, frames, strict=False):
            with self.run.writing(unit) as path, VideoWriter(path, plan.width, plan.height, plan.fps, {}) as writer:
                writer.write(itertools.chain((first,), itertools.islice(frames, length - 1)))

    def _picture(self) -> Frames | None:
        """What the video starts from; a still that is made of the prompt is a unit as well."""
        if self.run.has(STILL):
            return load_array(self.run.path(STILL), "pixels")
        picture = self.session.picture(self.settings, self.progress)
        if picture is not None and self.settings.image is None:
            with self.run.writing(STILL) as path:
                save_arrays(path, {"pixels": picture})
        return picture
