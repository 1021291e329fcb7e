"""One request from picture to frames: the stages in their order, each a stream that feeds the next."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Frames, Value
from stt2v.engine.drift import DriftWatch
from stt2v.engine.errands import Errands
from stt2v.engine.errors import EngineSetError, Stt2vError, UsageError
from stt2v.engine.first_chunk import first_chunk_frames
from stt2v.engine.loop import Handover, Loop, OnStep, first_attempt
from stt2v.engine.media.image import model_image
from stt2v.engine.media.tokenizer import Tokenizer, Tokens
from stt2v.engine.models.conditions import Start, open_conditions
from stt2v.engine.models.model import Enhancing, Model
from stt2v.engine.noise import NoiseSource
from stt2v.engine.plan import RunPlan, output_frame
from stt2v.engine.progress import Progress
from stt2v.engine.prompts import parse_prompts
from stt2v.engine.request import Settings
from stt2v.engine.run_costs import cost_on
from stt2v.engine.runs.chunks import Chunks
from stt2v.engine.runs.run import Run
from stt2v.engine.runs.states import RunKeeper
from stt2v.engine.stages.decode import from_uint8, to_uint8
from stt2v.engine.stages.enhance import Tools, enhanced, enhancer_windows, open_enhancer
from stt2v.engine.stages.interpolate import interpolate

SEGMENT = 48  # frames of the file that are encoded, and kept, at a time

OnBase = Callable[[int, Frames], None]
"""Called with each chunk's index and its frames of the base video, [n, H, W, 3], uint8, before they are enhanced.

One call at a time, by whatever thread has kept them.
"""


def unseen(chunk: int, frames: Frames) -> None:
    """Where base frames go when nobody looks."""


@dataclass(frozen=True)
class Pipeline:
    """Everything that one video is made of."""

    model: Model
    engines: Mapping[str, Engine]
    tokenizers: Mapping[str, Tokenizer]
    settings: Settings
    plan: RunPlan
    noise: NoiseSource
    progress: Progress
    on_base: OnBase = unseen

    def __post_init__(self) -> None:
        """Raise EngineSetError or UsageError, before any work, when a stage has no engine."""
        if self.plan.enhancing and (error := self._wrong_enhancer(self.plan.enhancing)):
            raise error
        if self.plan.interpolate and self._interpolator not in self.engines:
            raise EngineSetError("the engine set has no interpolator; build one with it, or use --no-interpolate")

    def frames(self, run: Run, picture: Frames | None, on_step: OnStep, first: int = 0) -> Iterator[Frames]:
        """Blocks of the video's frames, [n, H, W, 3], uint8; what `run` has finished is taken from there.

        picture: [H, W, 3], uint8, of the model's size, where it takes one; first: the base frame to begin with.
        """
        self._tell_cost()
        chunks = Chunks(run, self.model, self.plan.chunks, self.plan.clip_frames)
        generated = self._generated(chunks, picture, on_step)
        if self.plan.enhancing:
            keeper = RunKeeper(run, self.plan.folder)
            frames = self._enhanced(generated, chunks, keeper, picture, first)
        else:
            frames = without(map(chunks.frames, generated), first)
        frames = limited(frames, self.plan.base_frames - first)
        if self.plan.interpolate:
            frames = self._interpolated(frames, self.plan.num_frames - output_frame(first, interpolate=True))
        return frames

    def _tell_cost(self) -> None:
        """What the run takes, in one line, where the engines are a set that says so."""
        if cost := cost_on(self.engines, self.model, self.settings, self.plan):
            self.progress.note(f"plan: {cost.summary}")

    @property
    def segment(self) -> int:
        """How many base frames one segment of the file holds: whole batches of the interpolator."""
        if not self.plan.interpolate:
            return SEGMENT
        batch = self.engines[self._interpolator].spec.inputs[0].shape[0]
        return -(-SEGMENT // 2 // batch) * batch

    def _generated(self, chunks: Chunks, picture: Frames | None, on_step: OnStep) -> Iterator[int]:
        """The numbers of the chunks, each once it is finished; where all are needed first, while a thread keeps it."""
        after = chunks.handover()
        finished = after.chunk if after else 0
        for index in range(finished):
            self._show(chunks, index)
            yield index
        if finished == len(self.plan.chunks):
            return
        watch = self._drift_watch()
        if watch and after:
            watch.begin(chunks.frames(0))
        with Errands() as later:
            loop = self._loop(picture, after, watch, once_done(later, on_step))
            self.progress.stage("generate", self._steps_left(finished))
            for index, frames in enumerate(loop.chunks(len(self.plan.chunks), after), finished):
                later.send(partial(self._keep, chunks, index, frames))
                if not self.plan.enhancing:
                    later.wait()
                chunks.tell(index)
                if watch and index == 0:
                    watch.begin(to_uint8(frames))
                yield index

    def _loop(self, picture: Frames | None, after: Handover | None, watch: DriftWatch | None, on_step: OnStep) -> Loop:
        """What makes the chunks, the first one or those from `after` on."""
        start = Start(None if picture is None else model_image(picture), self._texts())
        conditions = open_conditions(self.model, self.engines, start, self.noise)
        given = None if after else self._given_chunk()
        settle, streaming = watch.settle if watch else first_attempt, self.settings.streaming
        return Loop(self.model, self.engines, conditions, self.noise, streaming, on_step, given, settle)

    def _keep(self, chunks: Chunks, index: int, frames: Array) -> None:
        chunks.keep(index, frames)
        self._show(chunks, index)

    def show(self, run: Run) -> None:
        """Let `on_base` see what `run` has finished."""
        chunks = Chunks(run, self.model, self.plan.chunks, self.plan.clip_frames)
        for index in range(chunks.finished):
            self._show(chunks, index)

    def _show(self, chunks: Chunks, index: int) -> None:
        """Let `on_base` see those frames of a finished chunk that the video is made of."""
        left = self.plan.base_frames - self.plan.chunks[index].start
        if left > 0 and self.on_base is not unseen:
            self.on_base(index, chunks.frames(index)[:left])

    def _steps_left(self, finished: int) -> int:
        return self.settings.streaming.steps * (len(self.plan.chunks) - finished) if finished else self.plan.steps

    def _drift_watch(self) -> DriftWatch | None:
        how = self.settings.drifting
        return DriftWatch(how, self.settings.streaming.steps, self.progress) if how else None

    def _given_chunk(self) -> Array | None:
        """The first chunk where another program makes it, as the loop takes it."""
        how = self.settings
        if how.first_chunk is None:
            return None
        size = self.model.width, self.model.height
        prompt = self.plan.chunk_prompts[0]
        frames = first_chunk_frames(how.first_chunk, prompt, how.image, how.seed, self.model.chunk, size)
        return from_uint8(frames.transpose(0, 3, 1, 2))

    def _texts(self) -> list[Tokens]:
        """What each chunk is told, [2, T], the negative prompt first; nothing where the set reads no text for it."""
        if "text" not in self.tokenizers:
            return []
        tokenize = self.tokenizers["text"]
        negative = tokenize(self.settings.negative_prompt or "")
        return [np.concatenate([negative, tokenize(prompt)]) for prompt in self.plan.chunk_prompts or ("",)]

    def _enhanced(
        self, generated: Iterator[int], chunks: Chunks, keeper: RunKeeper, picture: Frames | None, first: int
    ) -> Iterator[Frames]:
        """The whole base video is needed first: every step of the enhancer goes over all of its windows."""
        how = self.plan.enhancing
        assert how is not None
        for _ in generated:
            pass
        tools = Tools(self.engines, self.tokenizers["enhance"], self.noise, keeper, self._on_window_steps)
        enhancer = open_enhancer(how, tools, self._whole_prompt(), self.settings.negative_prompt)
        self.progress.stage("enhance", enhancer.window_steps(len(chunks)))
        seen = chunks[0] if picture is None else picture
        for frame in enhanced(enhancer, chunks, seen, (how.width, how.height), first, self.plan.base_frames):
            yield frame[None]

    def _whole_prompt(self) -> str | None:
        """What the whole video is about: the text that all chunks share, else that of the first."""
        if self.settings.prompt is None:
            return None
        return parse_prompts(self.settings.prompt).base or self.plan.chunk_prompts[0]

    def _on_window_steps(self, number: int, step: int, windows: int) -> None:
        self.progress.advance("enhance", windows, enhancing=number, step=step)

    def _interpolated(self, frames: Iterable[Frames], total: int) -> Iterator[Frames]:
        for block in interpolate(
            self._announced("interpolate", total, frames), self.engines[self._interpolator], total
        ):
            self.progress.advance("interpolate", len(block))
            yield block

    def _announced(self, stage: str, total: int, frames: Iterable[Frames]) -> Iterator[Frames]:
        """`frames` as they are; the stage begins when the first of them are there."""
        for index, block in enumerate(frames):
            if index == 0:
                self.progress.stage(stage, total)
            yield block

    @property
    def _interpolator(self) -> str:
        return f"interpolate_{self.plan.width}x{self.plan.height}"

    def _wrong_enhancer(self, how: Enhancing) -> Stt2vError | None:
        built, command = self.model.enhancing, f"`stt2v build-engines --model {self.model.name} --enhancer {how.name}`"
        if built is None:
            return EngineSetError(f"the engine set has no enhancer; build one with {command}, or use --enhancer none")
        if built.name != how.name:
            return EngineSetError(
                f"enhancer is {how.name}, the engine set has {built.name}; build another with {command}"
            )
        made = enhancer_windows(self.engines)
        if how.window not in made:
            known = ", ".join(map(str, made))
            return UsageError(f"window is {how.window}, the engine set has windows of {known}; choose one of these")
        return None


def once_done(errands: Errands, on_step: OnStep) -> OnStep:
    """`on_step`, told of a step when no errand is left: one that fails costs no more than the step beside it."""

    def waiting(chunk: int, step: int, timestep: float, latents: Value) -> Value:
        errands.wait()
        return on_step(chunk, step, timestep, latents)

    return waiting


def without(blocks: Iterable[Frames], count: int) -> Iterator[Frames]:
    """A stream of blocks after its first `count` frames."""
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))


def limited(blocks: Iterable[Frames], count: int) -> Iterator[Frames]:
    """The first `count` frames of a stream of blocks."""
    for block in blocks:
        if count <= 0:
            return
        yield block[:count]
        count -= len(block)
