"""A batch on a cluster, by Ray: a maker for each GPU, or for each processor where there are none.

A job may begin more than once, where a maker or its machine is lost; its video appears whole, under its name, and it
ends once.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stt2v.engine.batch.batch import ended
from stt2v.engine.batch.outcome import Outcome
from stt2v.engine.batch.share import Share
from stt2v.engine.batch.workshop import Making, Resident, Workshop, resident_of
from stt2v.engine.errors import BackendError, DeviceLostError, Stt2vError
from stt2v.engine.job import Job
from stt2v.engine.progress import Silent
from stt2v.engine.runs.interrupt import Interrupt

MOST = 3  # makers that a job may lose before it is taken to be the reason
PATIENCE = 1.0  # seconds between two looks at what the cluster has


class Maker:
    """Lives in a process of the cluster: makes one video after the other, its engines stay loaded."""

    def __init__(self, how: Making, url: str) -> None:
        self._workshop = Workshop(how, Interrupt("save"), Silent())
        self._share = Share(url)

    def make(self, job: Job) -> Outcome:
        """Make the video of `job`, and put it where all videos go. A process whose card is lost ends."""
        name, path = str(job.output), self._share.outbox(job.output.name)
        try:
            outcome = ended(replace(job, output=path), name, self._workshop)
            if outcome.state != "failed":
                self._share.put(path)
        except DeviceLostError:
            _ray().actor.exit_actor()
            raise
        except Stt2vError as error:  # no room for it, here or there
            return Outcome(name, "failed", str(error))
        return outcome


@dataclass
class _Worker:
    """A maker, and the engines that it has loaded."""

    actor: Any
    resident: Resident | None = None


@dataclass
class _Floor:
    """All makers, what each is at, and the jobs that wait. lost: how many makers ended while they made a video."""

    ray: Any
    how: Making
    url: str
    waiting: list[Job]
    calls: dict[Any, tuple[_Worker, Job]] = field(default_factory=dict)
    lost: Counter[Path] = field(default_factory=Counter)

    def hire(self) -> None:
        """Begin as many makers as there is room and work for, each with a job."""
        resources = self.ray.cluster_resources()
        kind, wanted = ("GPU", {"num_gpus": 1}) if resources.get("GPU") else ("CPU", {"num_cpus": 1})
        while self.waiting and len(self.calls) < max(1, int(resources.get(kind, 0))):
            remote = self.ray.remote(Maker).options(**wanted)
            self._give(_Worker(remote.remote(self.how, self.url)))

    def ended(self, call: Any) -> tuple[Job, Outcome] | None:
        """What became of a job; None where its maker was lost and another one will make it."""
        worker, job = self.calls.pop(call)
        try:
            outcome: Outcome = self.ray.get(call)
        except self.ray.exceptions.RayError as error:
            self.lost[job.output] += 1
            if self.lost[job.output] < MOST:
                self.waiting.insert(0, job)
                return None
            reason = f"{MOST} makers ended while they made it ({type(error).__name__})"
            return job, Outcome(str(job.output), "failed", reason)
        self._give(worker)
        return job, outcome

    def _give(self, worker: _Worker) -> None:
        """Give a maker its next job: one for the engines that it has, if there is any."""
        if not self.waiting:
            self.ray.kill(worker.actor)
            return
        job = next((job for job in self.waiting if resident_of(job) == worker.resident), self.waiting[0])
        self.waiting.remove(job)
        worker.resident = resident_of(job)
        self.calls[worker.actor.make.remote(job)] = worker, job


def on_cluster(url: str, how: Making, address: str, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
    """Make jobs by the makers of a Ray cluster; url: of the folder that they go to, as fsspec takes it.

    address: of the cluster, or "local" to begin one here. Raises BackendError without Ray, or where it is not reached.
    """
    if not jobs:
        return
    ray = _ray()
    _join(ray, address)
    try:
        url = url if "://" in url else str(Path(url).absolute())
        keep = replace(how.keep, run_dir=how.keep.run_dir and how.keep.run_dir.absolute())
        floor = _Floor(ray, replace(how, keep=keep), url, list(map(_anywhere, jobs)))
        while floor.waiting or floor.calls:
            floor.hire()
            ready, _ = ray.wait([*floor.calls], timeout=PATIENCE)
            yield from filter(None, map(floor.ended, ready))
    finally:
        ray.shutdown()


def _anywhere(job: Job) -> Job:
    """The job with paths that do not depend on the folder that a process is in; its video is made in the outbox."""
    image = job.request.image
    request = replace(job.request, image=image.absolute()) if isinstance(image, Path) else job.request
    return replace(job, request=request, engines=job.engines and job.engines.absolute())


def _join(ray: Any, address: str) -> None:
    try:
        ray.init(address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"no Ray cluster is reached at {address} ({error}); start one, or say --ray local"
        ) from error


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise BackendError(
            "a batch on a cluster needs Ray, which is not installed; pip install 'stt2v[cluster]'"
        ) from error
    return ray
