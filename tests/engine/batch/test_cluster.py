"""A batch on a local Ray cluster: makers, machines and drivers are lost, and every job ends once."""

import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from stt2v.engine.batch.cluster import _anywhere
from stt2v.engine.batch.share import Share, SharedLedger, ledger_of
from stt2v.engine.commands.batch import batch
from stt2v.engine.errors import UsageError
from stt2v.engine.flags import RequestFlags
from stt2v.engine.job import Job
from stt2v.engine.media.read import read_frames
from stt2v.engine.request import Request

pytest.importorskip("fsspec")

NAMES = ("a", "b", "c", "d")
COMMON = ("--steps", "1", "--num-frames", "3", "--no-enhance", "--no-interpolate", "--json")

ONE_IS_KILLED = """
    give, killed = cluster._Floor._give, []

    def killing(floor, worker):
        pid = None if killed else ray.get(worker.actor.__ray_call__.remote(lambda maker: os.getpid()))
        give(floor, worker)
        if pid:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    cluster._Floor._give = killing
    address = "local"
"""

A_NODE_IS_REMOVED = """
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = nodes.add_node(num_cpus=1)
    ended = cluster._Floor.ended

    def removing(floor, call):
        if second in nodes.worker_nodes:
            nodes.remove_node(second)
        return ended(floor, call)

    cluster._Floor.ended = removing
    address = nodes.address
"""

THE_DRIVER_IS_KILLED = """
    ended = cluster._Floor.ended

    def dying(floor, call):
        outcome = ended(floor, call)
        if outcome and not Path("died").exists():
            Path("died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

    cluster._Floor.ended = dying
    address = "local"
"""

DRIVER = """
    import os, signal, sys
    from pathlib import Path
    import ray
    from stt2v import cli
    from stt2v.engine.batch import cluster
    {fault}
    sys.exit(cli.main(["batch", "jobs.jsonl", "--out", "out", "--ray", address, *{common!r}]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [ONE_IS_KILLED, A_NODE_IS_REMOVED, THE_DRIVER_IS_KILLED], ids=["maker", "node", "driver"]
)
def test_every_job_ends_once(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("STT2V_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    (tmp_path / "jobs.jsonl").write_text("\n".join(json.dumps({"prompt": "a cat", "output": name}) for name in NAMES))
    script = textwrap.dedent(DRIVER).format(fault=textwrap.dedent(fault), common=COMMON)
    killed = fault == THE_DRIVER_IS_KILLED
    for wanted in [-9, 0] if killed else [0]:
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == wanted, done.stderr
    report = json.loads(done.stdout)
    states = Counter(job["state"] for job in report["jobs"])
    assert sorted(Path(job["job"]).stem for job in report["jobs"]) == sorted(NAMES)
    assert set(states) <= {"made", "there"}
    assert report["left"] == 0
    for name in NAMES:
        assert sum(1 for _ in read_frames(tmp_path / "out" / f"{name}.mp4")) == 3
    again = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert {job["state"] for job in json.loads(again.stdout)["jobs"]} == {"there"}


def test_a_job_means_the_same_in_another_folder() -> None:
    job = _anywhere(Job("tiny", Request(image=Path("a.png")), Path("out/a.mp4"), Path("set")))
    assert (job.request.image, job.engines) == (Path("a.png").absolute(), Path("set").absolute())
    plain = Job("mini", Request(prompt="a cat"), Path("out/a.mp4"))
    assert _anywhere(plain) == plain


def test_a_ledger_where_nothing_can_be_appended(tmp_path: Path) -> None:
    job, share = Job("mini", Request(prompt="a cat"), Path("a.mp4")), Share("memory://videos")
    ledger = ledger_of("memory://videos")
    assert isinstance(ledger, SharedLedger)
    assert not ledger.has(job)
    made = share.outbox("a.mp4")
    assert made == share.outbox("a.mp4")
    made.write_bytes(b"whole")
    share.put(made)
    assert not made.exists()
    assert not ledger.has(job)
    assert ledger.is_empty
    ledger.note(job)
    assert SharedLedger(share).has(job)
    assert not SharedLedger(share).has(Job("mini", Request(prompt="a dog"), Path("a.mp4")))
    made.write_bytes(b"another")
    share.put(made)
    assert not SharedLedger(share).has(job)


@pytest.mark.parametrize(
    ("asked", "word"), [({"out": "s3://videos"}, "needs --ray"), ({"ray": "local", "gpus": 2}, "--gpus")]
)
def test_what_does_not_go_together(asked: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        batch.__wrapped__(Path("jobs.jsonl"), RequestFlags(), **asked)
