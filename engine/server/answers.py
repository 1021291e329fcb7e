"""What requests come to: tickets made of bodies, and answers made of tickets."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from secrets import randbelow
from typing import Annotated
from zlib import crc32

from anyio import to_thread
from fastapi import Depends, HTTPException, Request

from stt2v.engine.errors import UsageError
from stt2v.engine.models import find_model
from stt2v.engine.models.model import Model
from stt2v.engine.request import Request as Wish
from stt2v.engine.server.making import take_of
from stt2v.engine.server.offers import Offer
from stt2v.engine.server.schemas import TakeBody, VideoBody, VideoObject, video_object
from stt2v.engine.server.studio import Studio
from stt2v.engine.server.ticket import Ticket, ticket_of
from stt2v.engine.server.uploads import save_picture

SOME_PICTURE = Path("picture")  # stands for one in requests that are only planned
SEEDS = 2**32


async def studio_here(request: Request) -> Studio:
    """The studio of the server that was asked."""
    studio: Studio = request.app.state.studio
    return studio


StudioHere = Annotated[Studio, Depends(studio_here)]


def found(video_id: str, studio: StudioHere) -> Ticket:
    """The ticket that a route names. Raises HTTPException."""
    ticket = studio.queue.find(video_id)
    if ticket is None:
        raise HTTPException(404, "there is no such video; GET /v1/videos lists those that there are")
    return ticket


Found = Annotated[Ticket, Depends(found)]


def view(studio: Studio, ticket: Ticket) -> VideoObject:
    """A ticket as clients see it now."""
    ahead = studio.queue.ahead_of(ticket) if ticket.status == "queued" else None
    return video_object(ticket, studio.estimates.get(ticket.id), ahead)


def wish_of(studio: Studio, body: VideoBody, has_picture: bool) -> tuple[Model, Wish]:
    """The request that a body spells. Raises UsageError for what is not to be had here."""
    offer = _offer(studio.offers, body.model)
    model = find_model(offer.model)
    if body.prompt is None and not has_picture:
        raise UsageError("neither prompt nor input_reference is given; send what the video is to begin with")
    wish = Wish(
        prompt=body.prompt,
        image=SOME_PICTURE if has_picture else None,
        num_frames=_frames(studio, model, body.seconds) or min(model.num_frames, studio.config.longest),
        seed=body.seed,
        enhancer=offer.enhancer(body.size),
    )
    return model, wish


def take_ticket(studio: Studio, source: Ticket, body: TakeBody, key: str | None) -> Ticket:
    """The ticket of another take of `source`. Raises UsageError, InputError, HTTPException."""
    if body.from_chunk and source.status in ("queued", "in_progress"):
        raise HTTPException(409, f"{source.id} is {source.status}; wait until it has ended")
    model = find_model(_offer(studio.offers, source.model).model)
    wish = replace(
        source.request(SOME_PICTURE),
        seed=_drawn_seed(source, key) if body.seed is None else body.seed,
        prompt=body.prompt or source.prompt,
        num_frames=_frames(studio, model, body.seconds) or source.num_frames,
    )
    ticket = ticket_of(model, wish, source=source.id, from_chunk=body.from_chunk, key=key)
    take_of(ticket, studio.files)
    return ticket


async def accepted(studio: Studio, ticket: Ticket, picture: bytes | Path | None) -> VideoObject:
    """Put a ticket into the queue, with its picture, or say which has the same key.

    Raises QueueFullError, InputError for the picture, UsageError for the key.
    """
    studio.queue.check_place(ticket)
    with studio.files.begun(ticket) as files:
        if isinstance(picture, bytes):
            todo = partial(save_picture, picture, files.picture, studio.config.pixels)
            await to_thread.run_sync(todo, limiter=studio.decoders)
        elif picture:
            await to_thread.run_sync(shutil.copyfile, picture, files.picture)
        kept = await to_thread.run_sync(studio.queue.add, ticket)
    if kept.id != ticket.id:
        studio.files.remove(ticket)
    studio.board.tell(kept.id)
    return view(studio, kept)


def _drawn_seed(source: Ticket, key: str | None) -> int:
    """Any seed, but by its key the same for a request that is repeated."""
    return randbelow(SEEDS) if key is None else crc32(f"{source.id} {key}".encode())


def _offer(offers: Mapping[str, Offer], name: str | None) -> Offer:
    offer = offers.get(name or next(iter(offers)))
    if offer is None:
        raise UsageError(f"model is {name!r}, those whose engines are here are {', '.join(offers)}")
    return offer


def _frames(studio: Studio, model: Model, seconds: float | None) -> int | None:
    if seconds is None:
        return None
    frames, most = max(1, round(seconds * model.fps)), studio.config.longest
    if frames > most:
        raise UsageError(f"seconds is {seconds:g}, at most {most / model.fps:g} ({most} frames) are made here")
    return frames
