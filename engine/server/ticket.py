"""A video that was asked for: what it should be, and how it stands with it."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

from stt2v.engine.models.model import Model
from stt2v.engine.plan import output_frame, plan_run
from stt2v.engine.request import Request

Status = Literal["queued", "in_progress", "completed", "failed"]
ENDED = ("completed", "failed")


def new_id() -> str:
    """A name that nobody can guess, and that is as good for a folder."""
    return f"video_{token_hex(16)}"


@dataclass(frozen=True)
class Ticket:
    """One video. `enhancer`: as in a request; `source`: the video that it is a take of, from chunk `from_chunk` on.

    starts: the frame of the file that each chunk begins with; times are seconds since 1970; deaths: how many workers
    have died of it; key: what a client calls it, to ask for it once only; deleted: gone but for its files.
    """

    model: str
    num_frames: int
    seed: int
    fps: float
    width: int
    height: int
    starts: tuple[int, ...]
    prompt: str | None = None
    enhancer: str | None = None
    has_picture: bool = False
    source: str | None = None
    from_chunk: int = 0
    key: str | None = None
    id: str = field(default_factory=new_id)
    created: float = field(default_factory=time.time)
    status: Status = "queued"
    started: float | None = None
    ended: float | None = None
    deaths: int = 0
    error: str | None = None
    deleted: bool = False

    @property
    def asked(self) -> tuple[object, ...]:
        """What shapes the video, but for its picture."""
        return self.model, self.num_frames, self.seed, self.prompt, self.enhancer, self.source, self.from_chunk

    @property
    def given(self) -> dict[str, Any]:
        """The fields of its request that are said, but for the picture."""
        said = {"prompt": self.prompt, "num_frames": self.num_frames, "seed": self.seed, "enhancer": self.enhancer}
        return {name: value for name, value in said.items() if value is not None}

    def request(self, picture: Path) -> Request:
        """The request that makes it; `picture` is where its picture lies, if it has one."""
        return Request(**self.given, image=picture if self.has_picture else None)


def ticket_of(model: Model, request: Request, **more: Any) -> Ticket:
    """The ticket of a request with every default filled in. Raises UsageError for what the model cannot make."""
    settings = request.resolve(model)
    plan = plan_run(model, settings)
    return Ticket(
        model=model.name,
        num_frames=plan.num_frames,
        seed=plan.seed,
        fps=plan.fps,
        width=plan.width,
        height=plan.height,
        starts=tuple(output_frame(chunk.start, plan.interpolate) for chunk in plan.chunks),
        prompt=request.prompt,
        enhancer=request.enhancer,
        has_picture=request.image is not None,
        **more,
    )
