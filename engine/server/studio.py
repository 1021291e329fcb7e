"""A studio: the queue, the workers and everything else of a server that is not about HTTP."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from anyio import CapacityLimiter

from stt2v.engine.errors import UsageError
from stt2v.engine.home import home
from stt2v.engine.machine import Card, cards
from stt2v.engine.server.attendant import Attendant
from stt2v.engine.server.board import Board
from stt2v.engine.server.estimate import Estimate
from stt2v.engine.server.files import Files
from stt2v.engine.server.messages import Died, Done, Failed, News, Outcome, Stopped
from stt2v.engine.server.metrics import Metrics
from stt2v.engine.server.offers import Offer, Planner, find_offers
from stt2v.engine.server.ticket import ENDED, Ticket
from stt2v.engine.server.video_queue import VideoQueue
from stt2v.engine.server.worker import OpenSession, Task, open_session

logger = logging.getLogger(__name__)

DECODERS = 2  # pictures that are read at once: each takes some hundred megabytes


@dataclass(frozen=True)
class Config:
    """How a server is run. token: what clients have to know, if anything; places: videos that may wait.

    models: those that are offered, () for all; upload: bytes of a request's body, pixels: of a picture.
    """

    folder: Path = field(default_factory=lambda: home() / "server")
    token: str | None = None
    places: int = 32
    models: tuple[str, ...] = ()
    longest: int = 1200  # frames
    upload: int = 20 * 2**20
    pixels: int = 25_000_000
    open_session: OpenSession = open_session


@dataclass
class Studio:
    """Everything that is open while a server runs."""

    config: Config
    files: Files
    queue: VideoQueue
    board: Board
    planner: Planner
    offers: dict[str, Offer]
    metrics: Metrics
    decoders: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(DECODERS))
    estimates: dict[str, Estimate] = field(default_factory=dict)
    attendants: list[Attendant] = field(default_factory=list)
    left: int = 0  # videos that are still to be made when it has closed

    def delete(self, ticket: Ticket) -> None:
        """Remove a video. What a worker is at goes as soon as that has stopped."""
        before = self.queue.delete(ticket)
        if before and before.status == "in_progress":
            for attendant in self.attendants:
                attendant.cancel(ticket.id)
        elif before:
            self._forget(before)
        self.board.tell(ticket.id)

    def hear(self, ticket: Ticket, news: News) -> None:
        """Take in what a worker tells."""
        if isinstance(news, Died):
            self.metrics.deaths.inc()
            self.estimates.pop(ticket.id, None)
        else:
            self.estimates.setdefault(ticket.id, Estimate()).hear(news)
        self.board.tell(ticket.id)

    def ended(self, ticket: Ticket, outcome: Outcome) -> None:
        """Take in how the making of a video ended."""
        self.estimates.pop(ticket.id, None)
        match outcome:
            case Done():
                ticket = self.queue.end(ticket, "completed")
            case Failed(error):
                ticket = self.queue.end(ticket, "failed", error)
            case Stopped():
                ticket = self.queue.end(ticket, "queued")
        if self.queue.find(ticket.id) is None:  # deleted, perhaps only now
            self._forget(ticket)
        elif ticket.status in ENDED:
            self.metrics.ended(ticket)
        self.board.tell(ticket.id)

    def seconds_to_a_place(self) -> int:
        """When a video that is refused now may find a place: when the next one is taken from the queue."""
        left = [estimate.seconds_left for estimate in [*self.estimates.values()]]
        return max(1, round(min((seconds for seconds in left if seconds is not None), default=10)))

    def _forget(self, ticket: Ticket) -> None:
        self.files.remove(ticket)
        self.queue.forget(ticket)


@contextmanager
def opened_studio(config: Config) -> Iterator[Studio]:
    """Open the studio whose videos are in `config.folder`, and go on with those that were left.

    When the block ends, workers stop after the step that they are at. Raises UsageError where another server has the
    folder, or no model is to be offered, OutputError where it cannot be written.
    """
    files = Files.at(config.folder)
    with _held(files.folder), VideoQueue(files.queue, config.places) as queue, Planner() as planner:
        offers = planner(find_offers, config.models)
        if not offers:
            raise UsageError(
                f"no engines of {', '.join(config.models) or 'any model'} are here; see `stt2v engines list`"
            )
        studio = Studio(config, files, queue, Board(), planner, offers, Metrics(queue))
        for ticket in queue.left_over():
            studio._forget(ticket)
        queue.begin()
        with _working(studio):
            yield studio


@contextmanager
def _working(studio: Studio) -> Iterator[None]:
    config = studio.config
    for card in visible_cards():
        task = Task(studio.files, config.open_session, card, next(iter(studio.offers)), config.token is None)
        studio.attendants.append(Attendant(studio.queue, task, studio.hear, studio.ended))
    for attendant in studio.attendants:
        attendant.start()
    try:
        yield
    finally:
        studio.queue.stop()
        for attendant in studio.attendants:
            attendant.cancel()
        for attendant in studio.attendants:
            attendant.join()
        studio.left = len(studio.queue.waiting())


def visible_cards() -> list[str | None]:
    """A card for each worker, as CUDA_VISIBLE_DEVICES names it; [None] for one worker on the processor."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [*map(str, range(len(_cards())))] or [None]
    return [name for name in named.split(",") if name] or [None]


def _cards() -> tuple[Card, ...]:
    try:
        return cards()
    except OSError as error:
        logger.warning("%s; until then videos are made on the processor", error)
        return ()


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder against other servers. Raises UsageError."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another server has {folder}; stop it or choose another --data") from None
        yield
