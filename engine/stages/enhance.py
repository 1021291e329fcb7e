"""Enhancing: a whole base video through the model's enhancer, on a canvas and cut out of it again."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from stt2v.engine.backends.base import Engine, Frames, Value
from stt2v.engine.media.canvas import Size, content, cut_size, fitted_size, on_canvas
from stt2v.engine.media.tokenizer import Tokenizer
from stt2v.engine.models import i2vgen_xl, mini, vid2vid
from stt2v.engine.models.i2vgen_xl import EnhancerSettings, key_lengths
from stt2v.engine.models.mini import MiniEnhancerSettings
from stt2v.engine.models.model import Enhancing
from stt2v.engine.models.vid2vid import Vid2VidSettings
from stt2v.engine.noise import NoiseSource
from stt2v.engine.stages.enhancer import Clip, OnWindows, encode_prompt
from stt2v.engine.stages.i2vgen_xl import I2VGenXL
from stt2v.engine.stages.keeper import Keeper
from stt2v.engine.stages.mini import MiniEnhancer
from stt2v.engine.stages.vid2vid import Vid2Vid


class Enhancer(Protocol):
    """Refines clips of at least one window at the size for which its engines were made."""

    def window_steps(self, frames: int) -> int:
        """How many steps of single windows a clip of `frames` takes."""
        ...

    def enhance(self, frames: Clip, picture: Frames, first: int = 0, end: int | None = None) -> Iterator[Frames]:
        """frames: [H, W, 3], uint8 each; picture: what the clip began with. Yields those from `first` to `end` - 1."""
        ...


@dataclass(frozen=True)
class Tools:
    """What an enhancer works with: engines, noise, where it keeps what is finished, and whom it tells of its steps."""

    engines: Mapping[str, Engine]
    tokenize: Tokenizer
    noise: NoiseSource
    keeper: Keeper
    on_step: OnWindows


def enhancer_windows(graphs: Iterable[str]) -> list[int]:
    """The lengths of the windows for which there are steps among `graphs`, the shortest first."""
    return sorted({int(window) for window in re.findall(r"\benhance_(\d+)_(?:step|half)", " ".join(graphs))})


def open_enhancer(how: Enhancing, tools: Tools, prompt: str | None, negative: str | None) -> Enhancer:
    """The enhancer that `how` names, told what to aim at and what to keep away from (None: its own default)."""
    wording, make = _ENHANCERS[how.name]
    text = encode_prompt(tools.engines, *map(tools.tokenize, wording(prompt, negative)))
    return make(how, tools, text)


def _i2vgen_xl(how: Enhancing, tools: Tools, text: Value) -> Enhancer:
    settings = EnhancerSettings(how.window, how.overlap, key_lengths(how.window), how.steps)
    return I2VGenXL(tools.engines, text, tools.noise, tools.keeper, tools.on_step, settings)


def _mini(how: Enhancing, tools: Tools, text: Value) -> Enhancer:
    settings = MiniEnhancerSettings(how.window, how.overlap, how.steps)
    return MiniEnhancer(tools.engines, text, tools.noise, tools.keeper, tools.on_step, settings)


def _vid2vid(how: Enhancing, tools: Tools, text: Value) -> Enhancer:
    settings = Vid2VidSettings(how.window, how.overlap, how.steps)
    return Vid2Vid(tools.engines, text, tools.noise, tools.keeper, tools.on_step, settings)


Wording = Callable[[str | None, str | None], tuple[str, str]]
Make = Callable[[Enhancing, Tools, Value], Enhancer]

_ENHANCERS: Mapping[str, tuple[Wording, Make]] = {
    i2vgen_xl.I2VGEN_XL.name: (i2vgen_xl.wording, _i2vgen_xl),
    mini.MINI_ENHANCER.name: (mini.wording, _mini),
    vid2vid.VID2VID.name: (vid2vid.wording, _vid2vid),
}


@dataclass(frozen=True)
class OnCanvas:
    """Frames of another aspect than the canvas, each put on it when it is asked for."""

    frames: Clip
    canvas: Size

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int, /) -> Frames:
        return placed(self.frames[index], self.canvas)


def placed(picture: Frames, canvas: Size) -> Frames:
    """The picture on the canvas; as it is where it has the canvas's aspect, for the enhancer to resize as it does."""
    fills = fitted_size((picture.shape[1], picture.shape[0]), canvas) == canvas
    return picture if fills else on_canvas(picture, canvas)


def enhanced(
    enhancer: Enhancer, frames: Clip, picture: Frames, canvas: Size, first: int = 0, end: int | None = None
) -> Iterator[Frames]:
    """Refine a clip of any aspect: its frames from number `first` to `end` - 1, of the size that `cut_size` gives.

    frames: [H, W, 3], uint8 each; picture: what the clip began with, [H, W, 3], uint8; canvas: the enhancer's size.
    """
    size = cut_size((frames[0].shape[1], frames[0].shape[0]), canvas)
    for board in enhancer.enhance(OnCanvas(frames, canvas), placed(picture, canvas), first, end):
        yield content(board, size)
