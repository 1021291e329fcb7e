"""All frame arithmetic, as pure functions: what a request means in chunks, before any work."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stt2v.engine.blend import window_starts
from stt2v.engine.errors import PlanError, UsageError
from stt2v.engine.media.canvas import cut_size
from stt2v.engine.models.i2vgen_xl import I2VGEN_XL
from stt2v.engine.models.model import Enhancing, Model
from stt2v.engine.prompts import PromptPart, parse_prompts, per_chunk, up_to
from stt2v.engine.request import Settings
from stt2v.engine.size import in_words

FLOAT, LATENT_CHANNELS, DOWNSCALE = 4, 4, 8  # of the enhancers' latents
ENCODED = 0.5  # bytes of a pixel of the video when it is noise; pictures take a fraction of that


@dataclass(frozen=True)
class ChunkPlan:
    """One chunk: its frames `start` to `stop` of the base video are new, `conditional` more are re-created."""

    index: int
    start: int
    stop: int
    conditional: int


def base_frames(num_frames: int, interpolate: bool) -> int:
    """Frames to generate for a file of `num_frames`: half of them, rounded up, when the rate is doubled."""
    return (num_frames + 1) // 2 if interpolate else num_frames


def output_frame(frame: int, interpolate: bool) -> int:
    """Where frame `frame` of the base video stands in the file."""
    return 2 * frame if interpolate else frame


def plan_chunks(num_frames: int, chunk: int, conditional: int) -> tuple[ChunkPlan, ...]:
    """The chunks that cover `num_frames`; the last may reach beyond. Raises PlanError."""
    if num_frames < 1:
        raise PlanError(f"number of frames is {num_frames}, expected at least 1")
    if not 0 < conditional < chunk:
        raise PlanError(f"{conditional} conditional frames of {chunk} a chunk, expected 1 to {chunk - 1}")
    new = chunk - conditional
    extra = max(0, -(-(num_frames - chunk) // new))
    first = ChunkPlan(0, 0, chunk, 0)
    starts = ((index, chunk + (index - 1) * new) for index in range(1, extra + 1))
    return (first, *(ChunkPlan(index, start, start + new, conditional) for index, start in starts))


@dataclass(frozen=True)
class RunPlan:
    """What one request comes to."""

    model: str
    width: int
    height: int
    num_frames: int
    fps: float
    seed: int
    base_frames: int
    chunks: tuple[ChunkPlan, ...]
    steps: int
    enhancing: Enhancing | None
    windows: tuple[int, ...]
    interpolate: bool
    run_bytes: int
    prompts: tuple[PromptPart, ...] = ()
    first_chunk: str | None = None

    @property
    def chunk_prompts(self) -> tuple[str, ...]:
        """The prompt of each chunk; () when there is none."""
        return per_chunk(self.prompts, len(self.chunks))

    @property
    def base_fps(self) -> float:
        """Frame rate of the base video."""
        return self.fps / output_frame(1, self.interpolate)

    @property
    def folder(self) -> str:
        """Where a run keeps what is made of its chunks for a video of this length."""
        return f"{self.num_frames}-frames"

    @property
    def generated_frames(self) -> int:
        return self.chunks[-1].stop

    @property
    def clip_frames(self) -> int:
        """Frames that go through the enhancer: at least a window, cut to `base_frames` afterwards."""
        return max(self.base_frames, self.enhancing.window) if self.enhancing else self.base_frames

    def lines(self) -> list[str]:
        """The plan in words."""
        length = f"{self.num_frames / self.fps:.1f} s at {self.fps:g} fps"
        later = len(self.chunks) - 1
        return [
            f"{self.model}: {self.num_frames} frames of {self.width}x{self.height}, {length}",
            f"base video: {self.base_frames} frames from {len(self.chunks)} chunks"
            f" (1 first, {later} streaming), {self.generated_frames} generated, {self.steps} denoising steps",
            *([f"first chunk by {self.first_chunk}, outside the engines"] if self.first_chunk else []),
            *(f"prompt from frame {part.frame} (chunk {part.chunk}): {part.text}" for part in self.prompts),
            *self._enhancing_lines(),
            *(["interpolation: every second frame is made from its neighbours"] if self.interpolate else []),
            f"disk: about {in_words(self.run_bytes)} for what is finished meanwhile, and for the video",
            f"seed {self.seed}",
        ]

    def _enhancing_lines(self) -> list[str]:
        if self.enhancing is None:
            return []
        how = self.enhancing
        keys = ", after a pass over the first frame of every window" if how.name == I2VGEN_XL.name else ""
        return [
            f"enhancer {how.name}: {self.clip_frames} frames in {len(self.windows)} windows of {how.window} that share"
            f" {how.overlap}, {how.steps} steps each{keys}"
        ]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "generated_frames": self.generated_frames}


def plan_run(model: Model, settings: Settings) -> RunPlan:
    """The plan of a resolved request. Raises PlanError, or UsageError for its prompts, before any work."""
    frames = base_frames(settings.num_frames, settings.interpolate)
    enhancing = settings.enhancing
    clip = max(frames, enhancing.window) if enhancing else frames
    chunks = plan_chunks(clip, model.chunk, model.conditional)
    first_steps = 0 if settings.first_chunk else model.first.steps
    size = model.width, model.height
    width, height = cut_size(size, (enhancing.width, enhancing.height)) if enhancing else size
    return RunPlan(
        model=model.name,
        width=width,
        height=height,
        num_frames=settings.num_frames,
        fps=settings.fps,
        seed=settings.seed,
        base_frames=frames,
        chunks=chunks,
        steps=first_steps + (len(chunks) - 1) * settings.streaming.steps,
        enhancing=enhancing,
        windows=window_starts(clip, enhancing.window, enhancing.overlap) if enhancing else (),
        interpolate=settings.interpolate,
        run_bytes=_run_bytes(model, settings, chunks, clip),
        prompts=_prompts(model, settings, chunks),
        first_chunk=settings.first_chunk,
    )


def _run_bytes(model: Model, settings: Settings, chunks: Sequence[ChunkPlan], clip: int) -> int:
    """What the run's files and the video take: chunks, the enhancer's states and conditions, twice the encoded frames.

    How well frames can be compressed is a guess on the safe side; all else is exact but for small tensors.
    """
    picture, how = model.width * model.height * 3, settings.enhancing
    generated = chunks[-1].stop * picture + (len(chunks) * model.conditional + 1) * picture * FLOAT
    size = model.width * model.height
    refined = 0
    if how:
        width, height = cut_size((model.width, model.height), (how.width, how.height))
        size, latent = width * height, LATENT_CHANNELS * how.width * how.height // DOWNSCALE**2 * FLOAT
        told = len(window_starts(clip, how.window, how.overlap)) * how.window
        refined = (3 * 2 * clip + told) * latent  # two tensors of a state: kept, on its way to the disk, in the making
    return generated + refined + 2 * int(settings.num_frames * size * ENCODED)


def end_after(model: Model, settings: Settings, plan: RunPlan, chunks: int) -> RunPlan:
    """The plan of the video that ends with the first `chunks` of `plan`'s chunks, told what these were told.

    It has more chunks only where the enhancer needs them to fill its window.
    """
    base = min(plan.base_frames, plan.chunks[chunks - 1].stop)
    num_frames = min(plan.num_frames, output_frame(base, plan.interpolate))
    shorter = plan_run(model, replace(settings, num_frames=num_frames, prompt=None))
    prompts = tuple(part for part in plan.prompts if part.chunk < len(shorter.chunks))
    return replace(shorter, prompts=prompts)


def prompt_of(plan: RunPlan, prompt: str | None) -> str | None:
    """`prompt` without what only chunks beyond the video of `plan` were told, which may have ended early."""
    told = [part for part in plan.prompts if part.frame < plan.num_frames]
    return up_to(prompt, told[-1].asked, plan.fps) if prompt and told else prompt


def _prompts(model: Model, settings: Settings, chunks: Sequence[ChunkPlan]) -> tuple[PromptPart, ...]:
    if settings.prompt is None:
        return ()
    schedule = parse_prompts(settings.prompt)
    if schedule.segments and not model.prompt_per_chunk:
        raise UsageError(
            f"model {model.name!r} reads one prompt for the whole video, got {len(schedule.segments)} segments"
            f" ({schedule.segments[0]} ...); write one prompt without times"
        )
    starts = [output_frame(chunk.start, settings.interpolate) for chunk in chunks]
    return schedule.parts(starts, settings.fps, settings.num_frames)
