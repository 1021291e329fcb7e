"""I2VGen-XL as an enhancer: the reference's settings, and the passes over a clip of any length."""

from dataclasses import dataclass

from stt2v.engine.blend import window_starts
from stt2v.engine.ddim import Schedule, timesteps
from stt2v.engine.errors import PlanError
from stt2v.engine.models.model import Enhancing

PROMPT = "High Quality, HQ, detailed."
NEGATIVE_PROMPT = (
    "Distorted, blurry, discontinuous, Ugly, blurry, low resolution, motionless, static, disfigured, disconnected "
    "limbs, Ugly faces, incomplete arms"
)

MOST_PASSES = 20  # as many as any clip takes whose windows advance by two frames or more

I2VGEN_XL = Enhancing("i2vgen-xl", 1280, 720, window=38, overlap=12, steps=30)

SCHEDULE = Schedule(
    prediction_type="v_prediction",
    beta_schedule="squaredcos_cap_v2",
    steps_offset=1,
    set_alpha_to_one=True,
    rescale_betas_zero_snr=True,
)


def wording(prompt: str | None, negative: str | None) -> tuple[str, str]:
    """Positive and negative prompt in full."""
    return prompt or PROMPT, NEGATIVE_PROMPT if negative is None else negative


def key_lengths(window: int) -> tuple[int, ...]:
    """The clip lengths for which key-frame graphs are made: short clips need not pay for a whole window."""
    return (*(length for length in (8, 16) if length < window), window)


@dataclass(frozen=True)
class EnhancerSettings:
    """How the enhancer samples. `fps` is what the network is told, whatever the rate of the file."""

    window: int = I2VGEN_XL.window
    overlap: int = I2VGEN_XL.overlap
    key_lengths: tuple[int, ...] = key_lengths(I2VGEN_XL.window)
    steps: int = I2VGEN_XL.steps
    strength: float = 0.97
    guidance: float = 9.0
    fps: int = 38
    schedule: Schedule = SCHEDULE

    @property
    def run_steps(self) -> int:
        """How many steps are done: the share `strength` of them."""
        return len(timesteps(self.schedule, self.steps, self.strength))


ENHANCER = EnhancerSettings()


@dataclass(frozen=True)
class EnhancerPass:
    """One pass: which frames of the clip it refines, in which windows.

    frames: indices into the clip, repeating the last where the pass is padded; kept: how many results count.
    """

    frames: tuple[int, ...]
    kept: int
    window: int
    starts: tuple[int, ...]


def plan_passes(frames: int, settings: EnhancerSettings) -> tuple[EnhancerPass, ...]:
    """The passes in their order, the one over the whole clip last.

    The first pass is conditioned on the input picture. Window k of every later pass is conditioned on result k of the
    pass before it, which has refined the first frame of every window as one short clip. Key frames too many for the
    longest key-frame graph are worked on in windows themselves.

    Raises: PlanError when windows and clip do not fit (see `window_starts`), a window is of one frame only, or windows
    that advance by one frame make key frames of almost all frames, pass after pass.
    """
    if settings.window < 2:
        raise PlanError(f"window is {settings.window}, expected at least 2 frames; raise the window")
    keys, passes = tuple(range(frames)), list[EnhancerPass]()
    while not passes or len(keys) > max(settings.key_lengths):
        if len(passes) == MOST_PASSES:
            raise PlanError(
                f"{frames} frames in windows of {settings.window} that share {settings.overlap} take more than"
                f" {MOST_PASSES} passes over key frames; lower the overlap"
            )
        starts = window_starts(len(keys), settings.window, settings.overlap)
        passes.append(EnhancerPass(keys, len(keys), settings.window, starts))
        keys = tuple(keys[start] for start in starts)
    length = min(length for length in settings.key_lengths if length >= len(keys))
    padding = (keys[-1],) * (length - len(keys))
    return (EnhancerPass(keys + padding, len(keys), length, (0,)), *reversed(passes))
