"""The routes of what goes on: events, and the preview that grows."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from anyio import sleep, to_thread
from fastapi import APIRouter, HTTPException
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from stt2v.engine.server.answers import Found, StudioHere, view
from stt2v.engine.server.schemas import DeletedObject, refusals
from stt2v.engine.server.studio import Studio
from stt2v.engine.server.ticket import ENDED, Ticket

BLOCK, PAUSE = 2**18, 0.2  # bytes that are read at once, seconds between looks at a file

router = APIRouter(prefix="/v1", tags=["events"])


@router.get("/events", response_class=EventSourceResponse)
async def all_events(studio: StudioHere) -> AsyncIterator[ServerSentEvent]:
    """Tell of every change of any video, the states of all that are not ended first."""
    with studio.board.watching() as watcher:
        for ticket in studio.queue.waiting():
            yield _event(studio, ticket.id, ticket)
        async for name in watcher.names():
            yield _event(studio, name, studio.queue.find(name))


@router.get("/videos/{video_id}/events", response_class=EventSourceResponse, responses=refusals(404))
async def events(ticket: Found, studio: StudioHere) -> AsyncIterator[ServerSentEvent]:
    """Tell of every change of one video, its state first, until it has ended."""
    with studio.board.watching(ticket.id) as watcher:
        watcher.hear(ticket.id)
        async for name in watcher.names():
            now = studio.queue.find(name)  # once, or its end could come after it was told and before it was looked at
            yield _event(studio, name, now)
            if now is None or now.status in ENDED:
                return


@router.get(
    "/videos/{video_id}/live",
    responses={200: {"content": {"video/mp4": {}}}, **refusals(404, 409)},
    response_class=StreamingResponse,
)
async def live(ticket: Found, studio: StudioHere) -> StreamingResponse:
    """The preview of a video in the making: a fragmented MP4 that goes on while frames come."""
    if ticket.status != "in_progress":
        raise HTTPException(409, f"the video is {ticket.status}; a preview is there while it is in progress")
    return StreamingResponse(_growing(studio, ticket), media_type="video/mp4", headers={"Cache-Control": "no-store"})


def _event(studio: Studio, name: str, ticket: Ticket | None) -> ServerSentEvent:
    """The state of a video, or that it is gone."""
    if ticket is None:
        return ServerSentEvent(event="deleted", data=DeletedObject(id=name))
    return ServerSentEvent(event="video", data=view(studio, ticket))


async def _growing(studio: Studio, ticket: Ticket) -> AsyncIterator[bytes]:
    """The bytes of a file that another process is writing; it may be removed at its end, or begun anew."""
    with studio.board.watching(ticket.id) as watcher, ExitStack() as stack:
        file: IO[bytes] | None = None
        while not watcher.over:
            goes_on = _is_made(studio, ticket)  # asked before the file, of which the end is then not missed
            file = file or _opened(studio.files.of(ticket.id).live, stack)
            if block := await to_thread.run_sync(file.read, BLOCK) if file else b"":
                yield block
            elif goes_on:
                await sleep(PAUSE)
            else:
                return


def _is_made(studio: Studio, ticket: Ticket) -> bool:
    now = studio.queue.find(ticket.id)
    return now is not None and now.status == "in_progress" and now.deaths == ticket.deaths


def _opened(path: Path, stack: ExitStack) -> IO[bytes] | None:
    try:
        return stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        return None
