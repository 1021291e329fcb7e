"""The routes of videos: made, listed, looked at, taken again, deleted."""

from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Header, HTTPException, Query, Request
from fastapi.responses import FileResponse

from stt2v.engine.paths import is_file
from stt2v.engine.server.answers import Found, StudioHere, accepted, take_ticket, view, wish_of
from stt2v.engine.server.schemas import (
    DeletedObject,
    TakeBody,
    VideoBody,
    VideoList,
    VideoObject,
    form_schema,
    refusals,
)
from stt2v.engine.server.ticket import ticket_of
from stt2v.engine.server.uploads import FORM, asked

Variant = Literal["video", "thumbnail", "spritesheet"]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=200, description="A repeated request with it makes no second video."),
]

router = APIRouter(prefix="/v1/videos", tags=["videos"])

FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # a whole video never changes
BODIES = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": VideoBody.model_json_schema()},
            FORM: {"schema": form_schema()},
        },
    }
}


@router.post("", responses=refusals(400, 409, 413, 415, 422, 429), openapi_extra=BODIES)
async def create(request: Request, studio: StudioHere, key: Key = None) -> VideoObject:
    """Ask for a video."""
    what = await asked(request)
    model, wish = wish_of(studio, what.body, what.picture is not None)
    return await accepted(studio, ticket_of(model, wish, key=key), what.picture)


@router.get("", responses=refusals(404, 422), name="list")
def list_videos(
    studio: StudioHere,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=100, description="The last of the page before.")] = None,
    order: Literal["asc", "desc"] = "desc",
) -> VideoList:
    """List the videos, by default the newest first."""
    if after is not None and studio.queue.find(after) is None:
        raise HTTPException(404, "the video to begin after is not there any more; begin anew")
    tickets = studio.queue.page(limit + 1, after, order == "desc")
    data = [view(studio, ticket) for ticket in tickets[:limit]]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return VideoList(data=data, first_id=ends[0], last_id=ends[1], has_more=len(tickets) > limit)


@router.get("/{video_id}", responses=refusals(404))
def retrieve(ticket: Found, studio: StudioHere) -> VideoObject:
    """Say how it stands with a video."""
    return view(studio, ticket)


@router.delete("/{video_id}", responses=refusals(404, 409))
def delete(ticket: Found, studio: StudioHere) -> DeletedObject:
    """Remove a video, or stop making it."""
    if takes := studio.queue.takes_of(ticket):
        raise HTTPException(409, f"{takes[0].id} goes on from chunks of it; wait for that or delete it first")
    studio.delete(ticket)
    return DeletedObject(id=ticket.id)


@router.post("/{video_id}/takes", responses=refusals(400, 404, 409, 413, 422, 429))
async def take(ticket: Found, body: TakeBody, studio: StudioHere, key: Key = None) -> VideoObject:
    """Ask for another take of a video: from a chunk on, or all of it, with another seed, prompt or length."""
    picture = studio.files.of(ticket.id).picture if ticket.has_picture else None
    return await accepted(studio, await to_thread.run_sync(take_ticket, studio, ticket, body, key), picture)


@router.get("/{video_id}/content", responses=refusals(404, 409, 422), response_class=FileResponse)
def content(ticket: Found, studio: StudioHere, variant: Variant = "video") -> FileResponse:
    """The MP4, its first frame, or a sheet that shows frames of every chunk. Ranges are served."""
    files = studio.files.of(ticket.id)
    path, kind = {
        "video": (files.video, "video/mp4"),
        "thumbnail": (files.thumbnail, "image/jpeg"),
        "spritesheet": (files.sheet, "image/png"),
    }[variant]
    if ticket.status != "completed" or not is_file(path):
        raise HTTPException(409, f"the video is {ticket.status}, there is no {variant}; wait until it is completed")
    name = f"{ticket.id}{path.suffix}"
    return FileResponse(path, media_type=kind, filename=name, headers=FOREVER, content_disposition_type="inline")
