"""One request from picture to frames: the stages in their order, each a stream that feeds the next."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from stt2v.engine.backends.base import Engine, Frames
from stt2v.engine.errors import EngineSetError, Stt2vError, UsageError
from stt2v.engine.loop import Loop, OnStep
from stt2v.engine.media.image import model_image
from stt2v.engine.media.tokenizer import Tokenizer
from stt2v.engine.models.conditions import Start, open_conditions
from stt2v.engine.models.i2vgen_xl import NEGATIVE_PROMPT, PROMPT, EnhancerSettings, key_lengths, plan_passes
from stt2v.engine.models.model import Enhancing, Model
from stt2v.engine.noise import NoiseSource
from stt2v.engine.plan import RunPlan
from stt2v.engine.progress import Progress
from stt2v.engine.request import Settings
from stt2v.engine.stages.decode import to_uint8
from stt2v.engine.stages.enhance import Enhancer, encode_prompt
from stt2v.engine.stages.interpolate import interpolate


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

    def __post_init__(self) -> None:
        """Raise EngineSetError or UsageError, before any work, when a stage has no engine."""
        if self.plan.enhancing and f"enhance_{self.plan.enhancing.window}_conditions" not in self.engines:
            raise self._no_window(self.plan.enhancing.window)
        if self.plan.interpolate and self._interpolator not in self.engines:
            raise EngineSetError("the engine set has no interpolator; build one with it, or use --no-interpolate")

    def run(self, picture: Frames, on_step: OnStep) -> Iterator[Frames]:
        """Blocks of frames, [n, H, W, 3], uint8; picture: [H, W, 3], uint8, of the model's size."""
        frames = self._base(picture, on_step)
        if self.plan.enhancing:
            frames = self._enhanced(frames, picture, self.plan.enhancing)
        frames = limited(frames, self.plan.base_frames)
        if self.plan.interpolate:
            frames = self._interpolated(frames)
        return frames

    def _base(self, picture: Frames, on_step: OnStep) -> Iterator[Frames]:
        conditions = open_conditions(self.model, self.engines, Start(model_image(picture)), self.noise)
        loop = Loop(self.model, self.engines, conditions, self.noise, self.settings.streaming, on_step)
        self.progress.stage("generate", self.plan.steps)
        for frames in loop.chunks(len(self.plan.chunks)):
            yield to_uint8(frames)

    def _enhanced(self, frames: Iterator[Frames], picture: Frames, how: Enhancing) -> Iterator[Frames]:
        """The whole base video is needed first: the pass over key frames looks at every window's first frame."""
        clip = [frame for block in limited(frames, self.plan.clip_frames) for frame in block]
        tokenize = self.tokenizers["enhance"]
        prompt = tokenize(self.settings.prompt or PROMPT)
        negative = tokenize(self.settings.negative_prompt or NEGATIVE_PROMPT)
        text = encode_prompt(self.engines, prompt, negative)
        settings = EnhancerSettings(how.window, how.overlap, key_lengths(how.window), how.steps)
        total = sum(len(part.starts) for part in plan_passes(len(clip), settings)) * settings.run_steps
        self.progress.stage("enhance", total)
        enhancer = Enhancer(self.engines, text, self.noise, settings, on_step=self._on_window_steps)
        for frame in enhancer.enhance(clip, picture):
            yield frame[None]

    def _on_window_steps(self, number: int, step: int, windows: int) -> None:
        self.progress.advance(windows, enhancing=number, step=step)

    def _interpolated(self, frames: Iterable[Frames]) -> Iterator[Frames]:
        self.progress.stage("interpolate", self.plan.num_frames)
        for block in interpolate(frames, self.engines[self._interpolator], self.plan.num_frames):
            self.progress.advance(len(block))
            yield block

    @property
    def _interpolator(self) -> str:
        return f"interpolate_{self.plan.width}x{self.plan.height}"

    def _no_window(self, window: int) -> Stt2vError:
        made = re.findall(r"enhance_(\d+)_conditions", " ".join(self.engines))
        if not made:
            return EngineSetError("the engine set has no enhancer; build one with it, or use --no-enhance")
        known = ", ".join(sorted(made, key=int))
        return UsageError(f"window is {window}, the engine set has windows of {known}; choose one of these")


def limited(blocks: Iterable[Frames], count: int) -> Iterator[Frames]:
    """The first `count` frames of a stream of blocks."""
    for block in blocks:
        if count <= 0:
            return
        yield block[:count]
        count -= len(block)
