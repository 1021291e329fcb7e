"""A worker: a process that holds a session open, and makes one video after the other for its server."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

from stt2v.engine.backends.base import Closing
from stt2v.engine.errors import DeviceLostError, StoppedError, Stt2vError
from stt2v.engine.progress import Progress, Silent
from stt2v.engine.server.child import follow_server
from stt2v.engine.server.files import Files
from stt2v.engine.server.making import make_video
from stt2v.engine.server.messages import Advanced, Done, Failed, Outcome, StageBegun, Stopped
from stt2v.engine.server.ticket import Ticket
from stt2v.engine.session import Session

logger = logging.getLogger(__name__)

OpenSession = Callable[[str, str | None, Progress], Session]
"""Opens a session of a model with an enhancer; a function of a module, which another process can import."""


def open_session(model: str, enhancer: str | None, progress: Progress) -> Session:
    """The session of the engines that are found here."""
    return Session.open(model, enhancer=enhancer, progress=progress)


@dataclass(frozen=True)
class Task:
    """What a worker is started with. card: the only one that it sees; first: the model that it opens at once."""

    files: Files
    open_session: OpenSession
    card: str | None
    first: str
    metadata: bool


def work(pipe: Connection, stop: Event, task: Task) -> None:
    """The life of a worker: a video for each ticket that comes, until None does. It ends with its server, too."""
    follow_server()
    if task.card is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.card
    with ThreadPoolExecutor(1) as beside:  # in the main thread, the making of a video would listen to signals
        beside.submit(_make_all, pipe, stop, task).result()


def _make_all(pipe: Connection, stop: Event, task: Task) -> None:
    with Held(task.open_session) as held:
        held.warm(task.first)
        while (ticket := pipe.recv()) is not None:
            pipe.send(_outcome(held, ticket, Wire(pipe, stop), stop, task))


def _outcome(held: "Held", ticket: Ticket, progress: "Wire", stop: Event, task: Task) -> Outcome:
    """Make a video. Raises DeviceLostError, after which this process is of no use."""
    try:
        session = held.session(ticket.model, ticket.enhancer, progress)
        return Done(make_video(session, ticket, task.files, progress, task.metadata).plan.num_frames)
    except DeviceLostError:
        raise
    except StoppedError as error:
        return Stopped() if stop.is_set() else Failed(str(error))  # the other reason is a full disk
    except Stt2vError as error:
        held.close()  # whatever it was, the next video is to begin with a fresh session
        return Failed(str(error))
    except Exception as error:
        logger.exception("video %s failed", ticket.id)
        held.close()
        return Failed(f"{type(error).__name__}: {error}")


class Held(Closing):
    """The one session that is open: of the model that was last asked for."""

    def __init__(self, open_session: OpenSession) -> None:
        self._open = open_session
        self._key: tuple[str, str | None] | None = None
        self._session: Session | None = None

    def session(self, model: str, enhancer: str | None, progress: Progress) -> Session:
        """The session that is open, if it is this one, else this one in its place."""
        if self._session is None or self._key != (model, enhancer):
            self.close()
            self._session, self._key = self._open(model, enhancer, progress), (model, enhancer)
        return self._session

    def warm(self, model: str) -> None:
        """Open a session before it is asked for; who asks for it is told what is wrong."""
        try:
            self.session(model, None, Silent())
        except Stt2vError as error:
            logger.warning("model %s cannot be opened: %s", model, error)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = None


class Wire:
    """Tells the server how far a video is, and hears from it when to stop."""

    def __init__(self, pipe: Connection, stop: Event) -> None:
        self.send: Callable[[Any], None] = pipe.send
        self._stop = stop

    def stage(self, name: str, total: int) -> None:
        self.send(StageBegun(name, total))

    def advance(self, name: str, steps: int = 1, **info: object) -> None:
        """Raises StoppedError when the server wants it; the step that was just done is done again."""
        self.send(Advanced(name, steps))
        if self._stop.is_set():
            raise StoppedError("stopped by the server")

    def note(self, line: str) -> None:
        logger.info("%s", line)
