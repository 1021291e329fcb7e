"""An attendant: the thread of a server that gives tickets to one worker, and starts another when that dies."""

import logging
import multiprocessing
import threading
from collections.abc import Callable, Iterator

from stt2v.engine.backends.base import Closing
from stt2v.engine.server.messages import Died, Failed, News, Outcome, Stopped
from stt2v.engine.server.ticket import Ticket
from stt2v.engine.server.video_queue import VideoQueue
from stt2v.engine.server.worker import Task, work

logger = logging.getLogger(__name__)

SPAWN = multiprocessing.get_context("spawn")  # a fork would share the server's threads, sockets and database
MOST_DEATHS = 3  # of workers on one video: what has killed so many kills the next one, too
PATIENCE = 30.0  # seconds that a worker has to finish its step

Hear = Callable[[Ticket, News], None]
Ended = Callable[[Ticket, Outcome], None]


class WorkerDied(Exception):
    """A worker ended while it made a video."""


class Worker(Closing):
    """The server's end of a worker."""

    def __init__(self, task: Task) -> None:
        self.stop = SPAWN.Event()
        self._pipe, there = SPAWN.Pipe()
        self._process = SPAWN.Process(target=work, args=(there, self.stop, task), daemon=True)
        self._process.start()
        there.close()

    @property
    def id(self) -> int:
        return self._process.pid or 0

    def make(self, ticket: Ticket) -> Iterator[News | Outcome]:
        """What the worker tells of the video, its outcome last. Raises WorkerDied."""
        try:
            self._pipe.send(ticket)
            while not isinstance(message := self._pipe.recv(), Outcome):
                yield message
            yield message
        except (EOFError, OSError) as error:
            self._process.join()
            raise WorkerDied(f"exit code {self._process.exitcode}") from error

    def close(self) -> None:
        """End the process, by force where it does not end by itself."""
        try:
            self._pipe.send(None)
            self._process.join(PATIENCE)
        except OSError:  # it is gone already
            pass
        self._process.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()


class Attendant(threading.Thread):
    """Takes tickets from the queue until that is stopped. hear: is told how far a video is; ended: how it ended."""

    def __init__(self, queue: VideoQueue, task: Task, hear: Hear, ended: Ended) -> None:
        super().__init__(name=f"attendant-{task.card or 0}", daemon=True)
        self._queue, self._task, self._hear, self._ended = queue, task, hear, ended
        self._lock = threading.Lock()
        self._current: str | None = None
        self._stopping = False
        self._worker = Worker(task)

    def run(self) -> None:
        try:
            while (ticket := self._queue.take()) is not None:
                self._attend(ticket)
        finally:
            self._worker.close()

    @property
    def worker_id(self) -> int:
        """The process that works now."""
        with self._lock:
            return self._worker.id

    def cancel(self, name: str | None = None) -> None:
        """Stop the video called `name` where it is being made here; None: whatever is made, and what comes."""
        with self._lock:
            self._stopping |= name is None
            if self._stopping or self._current == name:
                self._worker.stop.set()

    def _attend(self, ticket: Ticket) -> None:
        with self._lock:
            self._current = ticket.id
            deleted = self._queue.find(ticket.id) is None
            if self._stopping or deleted:
                self._worker.stop.set()
            else:
                self._worker.stop.clear()
        try:
            outcome = self._outcome(ticket)
        except WorkerDied as death:
            outcome = self._after(death, ticket)
        with self._lock:
            self._current = None
        self._ended(ticket, outcome)

    def _outcome(self, ticket: Ticket) -> Outcome:
        for message in self._worker.make(ticket):
            if isinstance(message, Outcome):
                return message
            self._hear(ticket, message)
        raise AssertionError("a worker says an outcome or dies")

    def _after(self, death: WorkerDied, ticket: Ticket) -> Outcome:
        """Start another worker; a video that goes on killing them fails."""
        logger.warning("worker died at video %s (%s)", ticket.id, death)
        self._hear(ticket, Died())
        with self._lock:
            self._worker.close()
            self._worker = Worker(self._task)
            if self._stopping:
                self._worker.stop.set()
        if self._queue.died(ticket).deaths < MOST_DEATHS:
            return Stopped()
        return Failed(f"{MOST_DEATHS} workers died of this video, the last with {death}; see the log of the server")
