"""What a model is: the declaration that the loop, the planner and the command line read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from stt2v.engine.typed_json import read_as


@dataclass(frozen=True)
class Denoising:
    """How a chunk is denoised: a schedule's name, its steps, and the guidance from the first to the last frame."""

    schedule: str
    steps: int
    guidance: tuple[float, float]


@dataclass(frozen=True)
class Enhancing:
    """How a whole video is refined: an enhancer's name, its picture size, and its windows in frames."""

    name: str
    width: int
    height: int
    window: int
    overlap: int
    steps: int

    def in_windows(self, window: int) -> "Enhancing":
        """The same in shorter windows, which share at most half of their frames."""
        return replace(self, window=window, overlap=min(self.overlap, window // 2))


@dataclass(frozen=True)
class Model:
    """A family of networks with its sizes and defaults.

    Sizes are in pixels (`width`, `height`), frames (`chunk`, of which `conditional` are given, and `anchor`, the index
    in the first chunk of the frame that appearance is kept from); a latent pixel covers `downscale` pixels.
    """

    name: str
    family: str
    summary: str
    width: int
    height: int
    chunk: int
    conditional: int
    anchor: int
    first: Denoising
    streaming: Denoising
    decode_group: int
    num_frames: int
    fps: float
    seed: int = 33
    inputs: tuple[str, ...] = ("image",)
    first_chunks: tuple[str, ...] = ()  # what can make the first chunk; the first of them is the model's own engines
    prompt_per_chunk: bool = False  # so that the prompt may change over the video
    one_network: bool = False  # the step of later chunks makes the first one, too
    replaces: bool = False  # what the conditional frames are is put into the latents at every step
    latent_channels: int = 4
    downscale: int = 8
    first_through_8_bits: bool = False
    enhancing: Enhancing | None = None
    interpolate: bool = False
    toy: bool = False  # networks of toy width with random weights
    warning: str = ""

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Shape of a chunk's latents: [F, C, h, w]."""
        return self.chunk, self.latent_channels, self.height // self.downscale, self.width // self.downscale

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Model":
        """The declaration kept in an engine set's manifest. Raises TypeError for anything else."""
        model: Model = read_as(cls, data)
        return model
