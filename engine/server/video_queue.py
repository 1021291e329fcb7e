"""The bounded queue of videos, in SQLite: what was accepted is on disk, and survives every restart."""

import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from stt2v.engine.backends.base import Closing
from stt2v.engine.errors import InputError, Stt2vError, UsageError
from stt2v.engine.server.ticket import Status, Ticket

FORMAT = 1
WAITING = "('queued', 'in_progress')"
COLUMNS = [field.name for field in fields(Ticket)]
TABLE = f"""
begin;
create table videos (place integer primary key autoincrement, {", ".join(COLUMNS)}, unique (id), unique (key));
create index status on videos (status, place);
create view seen as select * from videos where not deleted;
pragma user_version = {FORMAT};
commit;
"""


class QueueFullError(Stt2vError):
    """As many videos wait as may."""


class VideoQueue(Closing):
    """All tickets, in the order in which they came; at most `places` of them wait. For any number of threads.

    Raises InputError for a file that is no queue of this version.
    """

    def __init__(self, path: Path, places: int) -> None:
        self.places = places
        self._changed = threading.Condition(threading.RLock())
        self._open = True
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(path)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self, path: Path) -> None:
        self._database.row_factory = sqlite3.Row
        try:
            self._database.executescript("pragma journal_mode = wal; pragma synchronous = full;")
            (version,) = self._one("pragma user_version")
            if version == 0:
                self._database.executescript(TABLE)
        except sqlite3.DatabaseError as error:
            raise InputError(f"{path} is not the queue of a server ({error}); choose another --data") from error
        if version not in (0, FORMAT):
            raise InputError(f"{path} has format {version}, this stt2v reads {FORMAT}; choose another --data")

    def add(self, ticket: Ticket) -> Ticket:
        """Accept `ticket`, or return the one that was accepted under the same key.

        Raises QueueFullError, and UsageError where that one is of another video.
        """
        with self._changed:
            if ticket.key and (before := self._one("select * from videos where key = ?", ticket.key)):
                return _same(_ticket(before), ticket)
            self.check_place(ticket)
            values = _row(ticket)
            marks = ", ".join("?" * len(values))
            self._run(f"insert into videos ({', '.join(values)}) values ({marks})", *values.values())
            self._changed.notify()
            return ticket

    def check_place(self, ticket: Ticket) -> None:
        """Raise QueueFullError where `ticket` would not be accepted."""
        known = ticket.key and self._one("select 1 from videos where key = ?", ticket.key)
        if not known and self.count("queued") >= self.places:
            raise QueueFullError(f"{self.places} videos are waiting, as many as may; try again later")

    def take(self) -> Ticket | None:
        """The oldest that waits, now in progress; waits for one. None once there is nothing more to do."""
        with self._changed:
            while self._open:
                if row := self._one("select * from seen where status = 'queued' order by place limit 1"):
                    return self._update(_ticket(row), status="in_progress", started=row["started"] or time.time())
                self._changed.wait()
        return None

    def stop(self) -> None:
        """Let nobody take anything more."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def end(self, ticket: Ticket, status: Status, error: str | None = None) -> Ticket:
        """Say how the making of a video ended: "completed", "failed", or "queued" where it is to go on later."""
        with self._changed:
            ended = None if status == "queued" else time.time()
            ticket = self._update(ticket, status=status, error=error, ended=ended)
            self._changed.notify()
            return ticket

    def died(self, ticket: Ticket) -> Ticket:
        """Count a worker that died of it."""
        return self._update(ticket, deaths=ticket.deaths + 1)

    def find(self, name: str) -> Ticket | None:
        """The ticket called `name`."""
        row = self._one("select * from seen where id = ?", name)
        return _ticket(row) if row else None

    def page(self, limit: int, after: str | None, newest_first: bool) -> Sequence[Ticket]:
        """`limit` tickets in their order, those after the one called `after`."""
        step, order = ("<", "desc") if newest_first else (">", "asc")
        begin = "" if after is None else f"where place {step} (select place from videos where id = ?)"
        values = (limit,) if after is None else (after, limit)
        rows = self._all(f"select * from seen {begin} order by place {order} limit ?", *values)
        return [_ticket(row) for row in rows]

    def waiting(self) -> Sequence[Ticket]:
        """Those that are not ended, the oldest first."""
        return [_ticket(row) for row in self._all(f"select * from seen where status in {WAITING} order by place")]

    def count(self, status: Status) -> int:
        """How many there are in this state."""
        row = self._one("select count(*) from seen where status = ?", status)
        return int(row[0])

    def ahead_of(self, ticket: Ticket) -> int:
        """How many wait before a ticket that waits."""
        place = "select place from videos where id = ?"
        row = self._one(f"select count(*) from seen where status = 'queued' and place < ({place})", ticket.id)
        return int(row[0])

    def takes_of(self, ticket: Ticket) -> Sequence[Ticket]:
        """The takes of a video that are not made yet, and need its chunks."""
        rows = self._all(f"select * from seen where source = ? and from_chunk > 0 and status in {WAITING}", ticket.id)
        return [_ticket(row) for row in rows]

    def delete(self, ticket: Ticket) -> Ticket | None:
        """Have nobody see a ticket any more, also if a worker is at it; returns it as it was, None when it is gone."""
        with self._changed:
            before = self.find(ticket.id)
            self._run("update videos set deleted = true, key = null where id = ?", ticket.id)
            return before

    def forget(self, ticket: Ticket) -> None:
        """Remove a ticket for good, once its files are gone."""
        self._run("delete from videos where id = ?", ticket.id)

    def left_over(self) -> Sequence[Ticket]:
        """Those whose files are still to be removed, to be asked when nobody works."""
        return [_ticket(row) for row in self._all("select * from videos where deleted")]

    def begin(self) -> None:
        """Have those wait again, at their old place, that a server was making when it ended."""
        self._run("update videos set status = 'queued' where status = 'in_progress' and not deleted")

    def close(self) -> None:
        self.stop()
        with self._changed:
            self._database.close()

    def _update(self, ticket: Ticket, **values: Any) -> Ticket:
        assignments = ", ".join(f"{name} = ?" for name in values)
        self._run(f"update videos set {assignments} where id = ?", *values.values(), ticket.id)
        return replace(ticket, **values)

    def _run(self, statement: str, *values: Any) -> None:
        with self._changed, closing(self._database.execute(statement, values)):
            pass

    def _one(self, statement: str, *values: Any) -> Any:
        with self._changed, closing(self._database.execute(statement, values)) as cursor:
            return cursor.fetchone()

    def _all(self, statement: str, *values: Any) -> list[Any]:
        with self._changed, closing(self._database.execute(statement, values)) as cursor:
            return cursor.fetchall()


def _row(ticket: Ticket) -> dict[str, Any]:
    return {**asdict(ticket), "starts": json.dumps(ticket.starts)}


def _ticket(row: sqlite3.Row) -> Ticket:
    values = {name: row[name] for name in COLUMNS}
    flags = {name: bool(values[name]) for name in ("has_picture", "deleted")}
    return Ticket(**{**values, **flags, "starts": tuple(json.loads(values["starts"]))})


def _same(before: Ticket, ticket: Ticket) -> Ticket:
    """`before`, if it is of the video that `ticket` asks for. Raises UsageError."""
    if before.asked != ticket.asked or before.has_picture != ticket.has_picture:
        raise UsageError("the key was used for another video; give every video a key of its own")
    return before
