"""MS-Vid2Vid-XL as an enhancer: the reference's settings."""

from dataclasses import dataclass

from stt2v.engine.dpm_solver import CosineSchedule
from stt2v.engine.models.model import Enhancing

PROMPT = "High quality, sharp, full of detail"
NEGATIVE_PROMPT = (
    "Blurred, noisy, flickering, washed out, low resolution, compression artefacts, deformed bodies, extra limbs, "
    "distorted faces, text, watermark"
)

VID2VID = Enhancing("vid2vid", 1280, 720, window=24, overlap=8, steps=30)
SCHEDULE = CosineSchedule()


@dataclass(frozen=True)
class Vid2VidSettings:
    """How the enhancer samples. `start` is the timestep up to which the clip is noised."""

    window: int = VID2VID.window
    overlap: int = VID2VID.overlap
    steps: int = VID2VID.steps
    start: int = 599
    guidance: float = 7.5
    schedule: CosineSchedule = SCHEDULE


ENHANCER = Vid2VidSettings()


def wording(prompt: str | None, negative: str | None) -> tuple[str, str]:
    """Positive and negative prompt in full. The reference puts a comma after the prompt, and nothing after that."""
    return f"{prompt or PROMPT}, ", NEGATIVE_PROMPT if negative is None else negative
