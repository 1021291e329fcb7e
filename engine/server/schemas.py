"""What requests and responses hold; after OpenAI's video API, with more of what a long video is."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from stt2v.engine.noise import LARGEST_SEED
from stt2v.engine.server.estimate import Estimate
from stt2v.engine.server.ticket import Status, Ticket

LONGEST_PROMPT = 4000  # letters


def _number(value: object) -> object:
    """OpenAI's clients write seconds as text."""
    return float(value) if isinstance(value, str) and value.replace(".", "", 1).isdecimal() else value


MOST_SECONDS = 1e6
SECONDS = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_SECONDS},
        {"type": "string", "pattern": r"^[0-9]{1,5}(\.[0-9]{1,9})?$"},
    ],
    "description": "The length of the video. Default: the model's, or the longest that is made here.",
}
Prompt = Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT, description="What the video shows.")]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED, description="Same seed, same video.")]
Seconds = Annotated[
    float,
    Field(gt=0, le=MOST_SECONDS, allow_inf_nan=False),
    BeforeValidator(_number),
    WithJsonSchema(SECONDS),
]
Size = Annotated[str, Field(pattern=r"^[0-9]{1,5}x[0-9]{1,5}$", description="One of the model's sizes.")]


class Body(BaseModel):
    """What all bodies of requests have in common: they are taken as they are, and nothing else may be in them."""

    model_config = ConfigDict(extra="forbid", strict=True)


class VideoBody(Body):
    """A video to make. A picture to begin with comes as the file `input_reference` of a form."""

    prompt: Prompt | None = None
    model: Annotated[str, Field(max_length=100)] | None = None
    seconds: Seconds | None = None
    size: Size | None = None
    seed: Seed | None = None


class PlanBody(VideoBody):
    """A video to plan; picture: whether it begins with one."""

    picture: bool = False


class TakeBody(Body):
    """Another take of a video: chunks before `from_chunk` are kept. The seed is drawn where none is given."""

    from_chunk: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    prompt: Prompt | None = None
    seconds: Seconds | None = None
    seed: Seed | None = None


class LoginBody(Body):
    """The token, in exchange for a cookie."""

    token: Annotated[str, Field(max_length=1000)]


class ErrorObject(BaseModel):
    """What came, what was expected, what to do."""

    code: str
    message: str


class VideoObject(BaseModel):
    """A video. chunks: the frame of the file that each begins with; remixed_from_video_id: what it is a take of."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: Annotated[int, Field(ge=0, le=100)]
    created_at: int
    started_at: int | None
    completed_at: int | None
    prompt: str | None
    picture: bool
    seed: int
    size: str
    seconds: str
    num_frames: int
    fps: float
    chunks: list[int]
    remixed_from_video_id: str | None
    from_chunk: int
    queue_position: int | None
    stage: str | None
    seconds_left: float | None
    error: ErrorObject | None


class VideoList(BaseModel):
    """Videos in their order; more of them come after `last_id` where there are."""

    object: Literal["list"] = "list"
    data: list[VideoObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedObject(BaseModel):
    """A video that is gone."""

    id: str
    object: Literal["video.deleted"] = "video.deleted"
    deleted: Literal[True] = True


class PlanObject(BaseModel):
    """What a video comes to. Seconds, and bytes of memory and disk, are those of making it."""

    model: str
    num_frames: int
    fps: float
    size: str
    base_frames: int
    chunks: int
    steps: int
    windows: int
    interpolated: bool
    making_seconds: float | None
    measured: bool
    memory: int
    memory_there: int
    disk: int
    disk_free: int


class ModelObject(BaseModel):
    """A model whose engines are here."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "stt2v"
    summary: str
    toy: bool
    inputs: list[str]
    sizes: list[str]
    num_frames: int
    fps: float
    seed: int
    longest_seconds: float


class ModelList(BaseModel):
    """The models, the default first."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


def video_object(ticket: Ticket, estimate: Estimate | None, ahead: int | None) -> VideoObject:
    """A ticket as clients see it; estimate: of one in progress, ahead: how many wait before one that waits."""
    working = ticket.status == "in_progress" and estimate is not None
    left = estimate.seconds_left if working and estimate else None
    return VideoObject(
        id=ticket.id,
        model=ticket.model,
        status=ticket.status,
        progress=100 if ticket.status == "completed" else (estimate.percent if working and estimate else 0),
        created_at=int(ticket.created),
        started_at=_whole(ticket.started),
        completed_at=_whole(ticket.ended) if ticket.status == "completed" else None,
        prompt=ticket.prompt,
        picture=ticket.has_picture,
        seed=ticket.seed,
        size=f"{ticket.width}x{ticket.height}",
        seconds=f"{ticket.num_frames / ticket.fps:.9g}",
        num_frames=ticket.num_frames,
        fps=ticket.fps,
        chunks=[start for start in ticket.starts if start < ticket.num_frames],
        remixed_from_video_id=ticket.source,
        from_chunk=ticket.from_chunk,
        queue_position=ahead,
        stage=estimate.stage if working and estimate else None,
        seconds_left=None if left is None else round(left, 1),
        error=ErrorObject(code="failed", message=ticket.error) if ticket.error else None,
    )


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)


def form_schema() -> dict[str, Any]:
    """The schema of the form that makes a video: all of `VideoBody`, as text, and a file."""
    properties = VideoBody.model_json_schema()["properties"]
    picture = {"type": "string", "format": "binary", "description": "A JPEG, PNG or WebP to begin with."}
    return {
        "type": "object",
        "properties": {**properties, "input_reference": picture},
        "additionalProperties": False,
    }


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """What a route's description says of the errors that it answers with, whatever it answers else."""
    told = {"type": "object", "required": ["error"], "properties": {"error": ErrorObject.model_json_schema()}}
    content = {"application/json": {"schema": told}}
    return {code: {"description": HTTPStatus(code).phrase, "content": content} for code in codes}
