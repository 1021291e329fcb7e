"""The API, as clients use it."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from serving import SMALL, Served, fake_session, serving

from stt2v.engine.media.read import read_frames
from stt2v.engine.progress import Silent
from stt2v.engine.request import Request

PICTURE = Path(__file__).parents[2] / "data" / "landscape.jpg"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("server"), models=("mini", "tiny"), longest=240) as server:
        yield server


@pytest.fixture(scope="module")
def video(served: Served) -> dict[str, Any]:
    """A video of three chunks that is completed."""
    return served.ended(served.create(prompt="a cat", seconds=4.0, seed=7)["id"])


def content(served: Served, name: str, **headers: str) -> bytes:
    answer = served.client.get(f"/v1/videos/{name}/content", headers=headers)
    assert answer.status_code in (200, 206), answer.text
    return answer.content


def frames(data: bytes, path: Path) -> np.ndarray:
    path.write_bytes(data)
    return np.stack(list(read_frames(path)))


def test_a_video_is_what_generate_makes(served: Served, video: dict[str, Any], tmp_path: Path) -> None:
    assert (video["status"], video["progress"], video["seconds"], video["size"]) == ("completed", 100, "4", "64x64")
    assert (video["num_frames"], video["chunks"], video["seed"]) == (64, [0, 32, 48], 7)
    assert video["created_at"] <= video["started_at"] <= video["completed_at"]
    session = fake_session("mini", None, Silent())
    expected = session.generate(Request(prompt="a cat", num_frames=64, seed=7, enhancer="none"))
    expected = np.concatenate([chunk.frames for chunk in expected])
    got = frames(content(served, video["id"]), tmp_path / "got.mp4")
    assert got.shape == expected.shape == (64, 64, 64, 3)
    assert np.abs(got.astype(float) - expected).mean() < 4  # H.264 in between
    with av.open(BytesIO(content(served, video["id"]))) as file:
        made = json.loads(file.metadata["comment"])
    assert (made["prompt"], made["seed"], made["num_frames"]) == ("a cat", 7, 64)


def test_ranges(served: Served, video: dict[str, Any]) -> None:
    whole = content(served, video["id"])
    assert content(served, video["id"], Range="bytes=10-19") == whole[10:20]
    assert content(served, video["id"], Range="bytes=-7") == whole[-7:]
    path = f"/v1/videos/{video['id']}/content"
    beyond = served.client.get(path, headers={"Range": f"bytes={len(whole)}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{len(whole)}")
    part = served.client.get(path, headers={"Range": "bytes=0-0"})
    assert part.headers["content-range"] == f"bytes 0-0/{len(whole)}"
    assert part.headers["content-type"] == "video/mp4"
    stale = served.client.get(path, headers={"Range": "bytes=0-0", "If-Range": '"another"'})
    assert (stale.status_code, stale.content) == (200, whole)


@pytest.mark.parametrize(("variant", "kind"), [("thumbnail", "JPEG"), ("spritesheet", "PNG")])
def test_pictures_of_a_video(served: Served, video: dict[str, Any], variant: str, kind: str) -> None:
    answer = served.client.get(f"/v1/videos/{video['id']}/content", params={"variant": variant})
    with Image.open(BytesIO(answer.content)) as picture:
        assert picture.format == kind
    assert answer.headers["content-type"] == f"image/{kind.lower()}"


def test_a_form_with_a_picture(served: Served, tmp_path: Path) -> None:
    form = {"prompt": "a field", "seconds": "0.25", "size": "64x64", "seed": "3"}
    answer = served.client.post("/v1/videos", data=form, files={"input_reference": PICTURE.read_bytes()})
    made = served.ended(answer.json()["id"])
    assert (made["status"], made["picture"], made["seed"]) == ("completed", True, 3)
    other = served.ended(served.create(prompt="a field", seed=3)["id"])
    pair = [frames(content(served, name), tmp_path / "got.mp4") for name in (made["id"], other["id"])]
    assert not np.array_equal(*pair)  # the picture counts
    again = served.client.post(f"/v1/videos/{made['id']}/takes", json={"seed": 3}).json()
    assert served.ended(again["id"])["picture"]
    assert np.array_equal(pair[0], frames(content(served, again["id"]), tmp_path / "got.mp4"))


def test_a_take_keeps_the_chunks_before(served: Served, video: dict[str, Any], tmp_path: Path) -> None:
    take = served.client.post(f"/v1/videos/{video['id']}/takes", json={"from_chunk": 2, "seed": 8}).json()
    assert (take["remixed_from_video_id"], take["from_chunk"], take["prompt"]) == (video["id"], 2, "a cat")
    assert served.ended(take["id"])["status"] == "completed"
    first, second = (frames(content(served, name), tmp_path / "got.mp4") for name in (video["id"], take["id"]))
    early = slice(0, 40)  # of chunk 2's first frame, 48, the interpolator and the encoder know before
    assert np.abs(first[early].astype(float) - second[early]).mean() < 1
    assert not np.array_equal(first[50:], second[50:])
    beyond = served.client.post(f"/v1/videos/{video['id']}/takes", json={"from_chunk": 4})
    assert beyond.status_code == 400
    assert "expected 0 to 3" in beyond.json()["error"]["message"]


def test_a_list_is_read_page_by_page(served: Served, video: dict[str, Any]) -> None:
    served.ended(served.create(prompt="one more")["id"])
    whole = served.client.get("/v1/videos", params={"limit": 100}).json()["data"]
    names, after = [], {}
    while True:
        page = served.client.get("/v1/videos", params={"limit": 2, **after}).json()
        names += [each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
        after = {"after": page["last_id"]}
    assert names == [each["id"] for each in whole]
    oldest = served.client.get("/v1/videos", params={"limit": 1, "order": "asc"}).json()
    assert oldest["data"][0]["id"] == names[-1]


def test_events_tell_a_video_to_its_end(served: Served) -> None:
    name = served.create(prompt="a dog", seconds=2.0)["id"]
    with served.client.stream("GET", f"/v1/videos/{name}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert {each["id"] for each in told} == {name}
    assert told[-1]["status"] == "completed"
    progress = [each["progress"] for each in told]
    assert progress == sorted(progress)


def test_a_deleted_video_leaves_nothing(served: Served) -> None:
    name = served.ended(served.create(prompt="a dog")["id"])["id"]
    folder = served.studio.files.folder
    assert [path for path in folder.rglob("*") if name in str(path)]
    assert served.client.delete(f"/v1/videos/{name}").json() == {"id": name, "object": "video.deleted", "deleted": True}
    assert served.client.get(f"/v1/videos/{name}").status_code == 404
    assert served.client.delete(f"/v1/videos/{name}").status_code == 404
    assert not [path for path in folder.rglob("*") if name in str(path)]
    assert not any(name in path.read_text() for path in folder.rglob("run.json"))


def test_a_key_makes_one_video_only(served: Served) -> None:
    headers = {"Idempotency-Key": "mine"}
    first, second = (served.client.post("/v1/videos", json={**SMALL, "prompt": "x"}, headers=headers) for _ in "ab")
    assert first.json()["id"] == second.json()["id"]
    other = served.client.post("/v1/videos", json={**SMALL, "prompt": "y"}, headers=headers)
    assert other.status_code == 400
    assert "another video" in other.json()["error"]["message"]


def test_a_key_makes_one_take_only_whose_seed_is_drawn(served: Served, video: dict[str, Any]) -> None:
    path = f"/v1/videos/{video['id']}/takes"
    first, second, other = (
        served.client.post(path, json={"from_chunk": 3}, headers={"Idempotency-Key": key}).json()
        for key in ("my take", "my take", "my other take")
    )
    assert first["id"] == second["id"]
    assert other["seed"] != first["seed"] != video["seed"]


def test_no_video_is_longer_than_is_made_here(tmp_path: Path) -> None:
    with serving(tmp_path, longest=8) as server:
        assert server.client.post("/v1/plans", json={"prompt": "a cat"}).json()["num_frames"] == 8


def test_a_plan_before_work(served: Served) -> None:
    plan = served.client.post("/v1/plans", json={"prompt": "a cat", "seconds": "5"}).json()
    assert (plan["num_frames"], plan["chunks"], plan["steps"], plan["windows"]) == (80, 4, 80, 4)
    assert plan["size"] == "128x128"
    assert plan["making_seconds"] > 0
    assert plan["memory"] < plan["memory_there"]
    assert served.client.post("/v1/plans", json={"model": "tiny", "picture": True}).json()["size"] == "256x128"


def test_models_and_health(served: Served) -> None:
    mini, tiny = served.client.get("/v1/models").json()["data"]
    assert (mini["id"], mini["sizes"], mini["inputs"]) == ("mini", ["128x128", "64x64"], ["prompt", "image"])
    assert (tiny["id"], tiny["toy"]) == ("tiny", True)
    assert served.client.get("/healthz").json() == {"status": "ok"}


def test_metrics(served: Served, video: dict[str, Any]) -> None:
    text = served.client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines['stt2v_videos_total{model="mini",status="completed"}']) >= 1
    assert float(lines['stt2v_frames_total{model="mini"}']) >= 64
    assert lines['stt2v_videos_now{status="in_progress"}'] in ("0.0", "1.0")
    assert any('route="/v1/videos/{video_id}"' in line for line in lines)
    assert video["id"] not in text


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        ({"model": "sora-2"}, 400, "expected|are mini, tiny"),
        ({"size": "1x1"}, 400, "128x128, 64x64"),
        ({"seconds": 1000}, 400, "at most 15 (240 frames)"),
        ({"seconds": 0}, 422, "seconds"),
        ({"seconds": "NaN"}, 422, "seconds"),
        ({"seed": -1}, 422, "seed"),
        ({"seed": 2**63}, 422, "seed"),
        ({"seed": True}, 422, "seed"),
        ({"prompt": ""}, 422, "prompt"),
        ({"prompt": None}, 400, "neither prompt nor input_reference"),
        ({"prompt": "\ud800"}, 422, "prompt"),
        ({"prompt": "a; 0: b; 9000: c"}, 400, "begins at frame 9000"),
        ({"model": "tiny", "size": None}, 400, "starts from"),
        ({"secnds": 2}, 422, "secnds"),
        ({"input_reference": "/etc/passwd"}, 422, "input_reference"),
    ],
)
def test_what_cannot_be_made_is_refused(served: Served, asked: dict[str, Any], status: int, words: str) -> None:
    before = len(list((served.studio.files.folder / "videos").iterdir()))
    answer = served.client.post(
        "/v1/videos",
        content=json.dumps({"prompt": "a cat", **SMALL, **asked}),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == status, answer.text
    assert any(word in answer.json()["error"]["message"] for word in words.split("|")), answer.text
    assert len(list((served.studio.files.folder / "videos").iterdir())) == before


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{", 422),
        ("application/json", b"[" * 100_000, 422),
        ("application/json", b"[]", 422),
        ("text/plain", b"a cat", 415),
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=x", b"--x\r\nnothing", 400),
    ],
)
def test_bodies_that_are_none(served: Served, kind: str, body: bytes, status: int) -> None:
    answer = served.client.post("/v1/videos", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    ["/v1/videos/../queue.sqlite", "/v1/videos/%2e%2e%2fqueue.sqlite/content", "/page/../app.py", "//etc/passwd"],
)
def test_no_path_leads_anywhere(served: Served, path: str) -> None:
    answer = served.client.get(served.address + path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
