"""The queue: in order, bounded, and on disk."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stt2v.engine.errors import InputError, UsageError
from stt2v.engine.server.ticket import Ticket
from stt2v.engine.server.video_queue import QueueFullError, VideoQueue


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[VideoQueue]:
    with VideoQueue(tmp_path / "queue.sqlite", 3) as opened:
        yield opened


def ticket(**values: object) -> Ticket:
    return Ticket("mini", 80, 33, 16.0, 128, 128, (0, 32), **values)


def test_a_ticket_comes_back_as_it_was(queue: VideoQueue) -> None:
    given = ticket(prompt="a 'cat'; drop table videos", has_picture=True, source="x", from_chunk=2, key="k")
    given = replace(given, seed=2**63 - 1)
    assert queue.add(given) == given
    assert queue.find(given.id) == given
    assert queue.find("' or '1'='1") is None


def test_the_oldest_is_taken_first_and_what_goes_on_before_all(queue: VideoQueue) -> None:
    first, second, third = (queue.add(ticket(prompt=name)) for name in "abc")
    taken = queue.take()
    assert (taken.id, taken.status) == (first.id, "in_progress")
    assert [queue.ahead_of(each) for each in (second, third)] == [0, 1]
    queue.end(taken, "queued")
    again = queue.take()
    assert (again.id, again.started) == (first.id, taken.started)
    assert queue.take().id == second.id


def test_it_is_bounded_by_those_that_wait(queue: VideoQueue) -> None:
    first, *_ = (queue.add(ticket(key=key)) for key in ("a", None, None))
    with pytest.raises(QueueFullError, match="3 videos"):
        queue.add(ticket())
    assert queue.add(replace(ticket(key="a"), id="other")).id == first.id
    queue.take()
    queue.add(ticket())
    with pytest.raises(QueueFullError):
        queue.add(ticket())


def test_a_key_is_of_one_video(queue: VideoQueue) -> None:
    queue.add(ticket(key="a", prompt="a cat"))
    with pytest.raises(UsageError, match="another video"):
        queue.add(ticket(key="a", prompt="a dog"))


def test_it_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    with VideoQueue(path, 9) as queue:
        names = [queue.add(ticket()).id for _ in range(4)]
        queue.end(queue.take(), "completed")
        queue.end(queue.take(), "failed", "no reason")
        queue.take()
    with VideoQueue(path, 9) as queue:
        assert [queue.find(name).status for name in names] == ["completed", "failed", "in_progress", "queued"]
        assert queue.find(names[1]).error == "no reason"
        queue.begin()
        assert [queue.take().id for _ in "ab"] == names[2:]


def test_the_deleted_are_gone_but_for_their_files(queue: VideoQueue) -> None:
    waiting, working = queue.add(ticket()), queue.add(ticket())
    assert queue.delete(waiting) == waiting
    assert queue.delete(waiting) is None
    taken = queue.take()
    assert taken.id == working.id
    assert queue.delete(taken).status == "in_progress"
    assert (queue.find(waiting.id), queue.waiting(), queue.page(9, None, True)) == (None, [], [])
    assert {each.id for each in queue.left_over()} == {waiting.id, working.id}
    queue.begin()
    queue.forget(waiting)
    assert [each.id for each in queue.left_over()] == [working.id]
    queue.stop()
    assert queue.take() is None


def test_the_key_of_a_deleted_video_is_free(queue: VideoQueue) -> None:
    queue.delete(queue.add(ticket(key="a")))
    again = ticket(key="a", prompt="another")
    assert queue.add(again) == again


def test_takes_that_need_chunks_are_known(queue: VideoQueue) -> None:
    source = queue.add(ticket())
    take = queue.add(ticket(source=source.id, from_chunk=1))
    queue.add(ticket(source=source.id))
    assert queue.takes_of(source) == [take]
    queue.end(take, "completed")
    assert queue.takes_of(source) == []


def test_many_threads_get_every_ticket_once(tmp_path: Path) -> None:
    taken: list[str] = []
    with VideoQueue(tmp_path / "queue.sqlite", 1000) as queue:

        def work() -> None:
            while mine := queue.take():
                taken.append(mine.id)
                queue.end(mine, "completed")

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        names = [queue.add(ticket()).id for _ in range(40)]
        while queue.waiting():
            time.sleep(0.01)
        queue.stop()
        for worker in workers:
            worker.join()
    assert sorted(taken) == sorted(names)


@pytest.mark.parametrize("kind", ["text", "other version"])
def test_what_is_no_queue_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    if kind == "text":
        path.write_text("not a database" * 100)
    else:
        with sqlite3.connect(path) as database:
            database.execute("pragma user_version = 99")
        database.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="choose another --data"):
        VideoQueue(path, 3)
    assert path.read_bytes() == before or kind == "other version"
