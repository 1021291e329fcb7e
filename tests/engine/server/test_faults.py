"""Many clients, full queues, killed workers and killed servers: every video is made exactly once, and is its own."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import httpx2
import numpy as np
import pytest
from serving import PATIENCE, SMALL, Served, deadly_session, fake_session, serving, slow_session

from stt2v.engine.media.read import read_frames
from stt2v.engine.progress import Silent
from stt2v.engine.request import Request
from stt2v.engine.videos import generate_video

TESTS = Path(__file__).parents[2]
SERVER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import serving
from stt2v.engine.server.serving import listening, run
from stt2v.engine.server.studio import Config

if __name__ == "__main__":
    config = Config(folder=Path({folder!r}), open_session=serving.slow_session, models=("mini",))
    with listening("127.0.0.1", 0, None) as (listener, address):
        run(config, listener, lambda: print(address, flush=True))
"""


def made(data: bytes) -> dict[str, Any]:
    with av.open(BytesIO(data)) as file:
        return json.loads(file.metadata["comment"])


def pictures(path: Path) -> np.ndarray:
    return np.stack(list(read_frames(path)))


def untouched(folder: Path, **asked: Any) -> np.ndarray:
    """The frames of a video that nothing has disturbed."""
    folder.mkdir(exist_ok=True)
    session = fake_session("mini", None, Silent())
    generate_video(session, Request(enhancer="none", **asked), folder / "out.mp4", Silent())
    return pictures(folder / "out.mp4")


@pytest.mark.parametrize("clients", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_clients_at_once_get_each_what_they_asked_for(
    clients: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers; a queue that is too small for all, so many are refused and come again; some connections break."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    refused = Counter[int]()

    def client(served: Served, number: int) -> tuple[int, str]:
        asked = {**SMALL, "prompt": f"a cat number {number}", "seed": number}
        key = {"Idempotency-Key": f"client {number}"}
        with httpx2.Client(base_url=served.address, timeout=PATIENCE) as mine:
            while True:
                answer = mine.post("/v1/videos", json=asked, headers=key)
                if answer.status_code == 200 and number % 5 == 0 and not refused[number]:
                    refused[number] += 1  # as if the answer were lost: ask once more
                    continue
                if answer.status_code == 200:
                    name = answer.json()["id"]
                    break
                assert answer.status_code == 429
                refused[-1] += 1
                time.sleep(random.uniform(0.3, 1.0) * min(3, int(answer.headers["retry-after"])))
            with mine.stream("GET", f"/v1/videos/{name}/events") as events:
                (*_, last) = (json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: "))
            assert (last["id"], last["status"], last["seed"]) == (name, "completed", number), last
            content = mine.get(f"/v1/videos/{name}/content").content
        told = made(content)
        assert (told["prompt"], told["seed"]) == (asked["prompt"], number)
        (tmp_path / f"{number}.mp4").write_bytes(content)
        return number, name

    with serving(tmp_path / "server", places=8) as served, ThreadPoolExecutor(clients) as pool:
        names = dict(pool.map(lambda number: client(served, number), range(clients)))
        listed = served.client.get("/v1/videos", params={"limit": 100}).json()["data"]
        metrics = served.client.get("/metrics").text
    assert len(set(names.values())) == clients
    assert len(listed) == min(clients, 100)
    assert f'stt2v_videos_total{{model="mini",status="completed"}} {float(clients)}' in metrics
    assert refused[-1] > 0
    for number in random.Random(0).sample(range(clients), 5):
        expected = untouched(tmp_path / "alone", prompt=f"a cat number {number}", seed=number, num_frames=4)
        np.testing.assert_array_equal(pictures(tmp_path / f"{number}.mp4"), expected)


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    with serving(tmp_path / "server", places=2, open_session=slow_session) as served:
        first = served.create(prompt="first", seconds=3.0)
        served.until(first["id"], lambda video: video["progress"] > 5)
        second, _ = served.create(prompt="second"), served.create(prompt="third")
        full = served.client.post("/v1/videos", json={**SMALL, "prompt": "fourth"})
        assert full.status_code == 429
        assert 1 <= int(full.headers["retry-after"]) < 60
        assert full.json()["error"]["code"] == "too_many_requests"
        assert served.client.get(f"/v1/videos/{second['id']}").json()["queue_position"] == 0
        assert served.client.delete(f"/v1/videos/{second['id']}").status_code == 200
        assert served.create(prompt="fourth")["queue_position"] == 1
        assert "stt2v_refused_videos_total 1.0" in served.client.get("/metrics").text


def test_a_video_that_is_deleted_while_it_is_made_stops(tmp_path: Path) -> None:
    with serving(tmp_path / "server", open_session=slow_session) as served:
        name = served.create(prompt="a cat", seconds=8.0)["id"]
        served.until(name, lambda video: video["progress"] > 5)
        live = served.client.stream("GET", f"/v1/videos/{name}/live")
        with live as answer:
            assert answer.headers["content-type"] == "video/mp4"
            assert served.client.delete(f"/v1/videos/{name}").status_code == 200
            began = time.monotonic()
            answer.read()  # it ends, because the video does
        other = served.create(prompt="a dog")["id"]
        assert served.ended(other)["status"] == "completed"
        assert time.monotonic() - began < 30
        assert [path.name for path in (tmp_path / "server" / "videos").iterdir()] == [other]


def test_a_preview_can_be_watched_to_its_end(tmp_path: Path) -> None:
    with serving(tmp_path / "server", open_session=slow_session) as served:
        name = served.create(prompt="a cat", seconds=2.0)["id"]
        served.until(name, lambda video: video["status"] == "in_progress")
        preview = served.client.get(f"/v1/videos/{name}/live").content
        assert served.ended(name)["status"] == "completed"
        with av.open(BytesIO(preview)) as file:
            assert sum(1 for _ in file.decode(video=0)) >= 12  # of 16 base frames, of which the last may come too late
        assert served.client.get(f"/v1/videos/{name}/live").status_code == 409


def test_a_killed_worker_costs_no_chunk(tmp_path: Path) -> None:
    with serving(tmp_path / "server", open_session=slow_session) as served:
        name = served.create(prompt="a cat", seconds=3.0, seed=5)["id"]
        served.until(name, lambda video: video["progress"] > 25)
        worker = served.studio.attendants[0].worker_id
        os.kill(worker, signal.SIGKILL)
        served.until(name, lambda _: served.studio.attendants[0].worker_id != worker)
        video = served.ended(name)
        assert video["status"] == "completed", video
        (run,) = (tmp_path / "server" / "runs").iterdir()
        units = [json.loads(line)["unit"] for line in (run / "journal").read_text().splitlines()]
        assert max(Counter(units).values()) == 1  # nothing was done twice
        assert "stt2v_worker_deaths_total 1.0" in served.client.get("/metrics").text
        (tmp_path / "got.mp4").write_bytes(served.client.get(f"/v1/videos/{name}/content").content)
    expected = untouched(tmp_path / "alone", prompt="a cat", seed=5, num_frames=48)
    np.testing.assert_array_equal(pictures(tmp_path / "got.mp4"), expected)


def test_a_video_that_kills_its_workers_fails(tmp_path: Path) -> None:
    with serving(tmp_path / "server", open_session=deadly_session) as served:
        video = served.ended(served.create(prompt="a cat")["id"])
        assert video["status"] == "failed"
        assert video["error"]["message"].startswith("3 workers died of this video, the last with exit code -9")


@contextmanager
def another_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server in a process of its own, and its address."""
    script = folder.parent / "server.py"
    script.write_text(SERVER.format(tests=str(TESTS), folder=str(folder)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def wait_for(address: str, name: str, progress: int) -> dict[str, Any]:
    while True:
        video: dict[str, Any] = httpx2.get(f"{address}/v1/videos/{name}").json()
        if video["progress"] >= progress:
            return video
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_servers_lose_nothing(tmp_path: Path) -> None:
    """A server is killed in the midst of one video while another waits; the next one is stopped as by Ctrl-C."""
    folder = tmp_path / "server"
    with another_process(folder) as (process, address):
        post = [{**SMALL, "prompt": word, "seed": 5, "seconds": 6.0} for word in ("a cat", "a dog")]
        names = [httpx2.post(f"{address}/v1/videos", json=asked).json()["id"] for asked in post]
        wait_for(address, names[0], 40)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with another_process(folder) as (process, address):
        assert wait_for(address, names[0], 40)["status"] == "in_progress"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1  # the script lets the error be: videos are left
    with another_process(folder) as (process, address):
        for name in names:
            assert wait_for(address, name, 100)["status"] == "completed"
        for number, name in enumerate(names):
            (tmp_path / f"{number}.mp4").write_bytes(httpx2.get(f"{address}/v1/videos/{name}/content").content)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0  # nothing is left
    for journal in (folder / "runs").glob("*/journal"):
        units = [json.loads(line)["unit"] for line in journal.read_text().splitlines()]
        assert max(Counter(units).values()) == 1
    assert len(list((folder / "runs").iterdir())) == 2
    for number, word in enumerate(("a cat", "a dog")):
        expected = untouched(tmp_path / "alone", prompt=word, seed=5, num_frames=96)
        np.testing.assert_array_equal(pictures(tmp_path / f"{number}.mp4"), expected)


def test_a_stopped_server_goes_on_where_it_was(tmp_path: Path) -> None:
    with serving(tmp_path / "server", open_session=slow_session) as served:
        name = served.create(prompt="a cat", seconds=3.0, seed=5)["id"]
        served.until(name, lambda video: video["progress"] > 25)
    assert served.studio.left == 1
    (before,) = (tmp_path / "server" / "runs").glob("*/journal")
    kept = before.read_text()
    assert kept
    with serving(tmp_path / "server") as served:
        assert served.ended(name)["status"] == "completed"
        assert before.read_text().startswith(kept)
        (tmp_path / "got.mp4").write_bytes(served.client.get(f"/v1/videos/{name}/content").content)
    expected = untouched(tmp_path / "alone", prompt="a cat", seed=5, num_frames=48)
    np.testing.assert_array_equal(pictures(tmp_path / "got.mp4"), expected)


def test_files_of_deleted_videos_go_with_the_next_start(tmp_path: Path) -> None:
    with serving(tmp_path / "server") as served:
        ticket = served.studio.queue.find(served.ended(served.create(prompt="a cat")["id"])["id"])
        served.studio.queue.delete(ticket)  # and then the server is killed
    assert list((tmp_path / "server" / "videos").iterdir())
    with serving(tmp_path / "server"):
        assert not list((tmp_path / "server" / "videos").iterdir())
        assert not list((tmp_path / "server" / "runs").iterdir())


def test_no_thread_stays() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("attendant")]
