"""`stt2v pull`: the published weights of a model into one folder, the same ones every time."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from stt2v.engine.errors import ExportError, InputError, UsageError
from stt2v.engine.models import MODELS
from stt2v.engine.progress import Progress, Silent
from stt2v.engine.store import weight_folder
from stt2v.export.hub import Remote, fetch, find_cached, list_cached, list_files, offline
from stt2v.export.pull_lock import Converted, Fingerprint, PullLock, Snapshot
from stt2v.export.weights.pickles import convert_ema_vfi, convert_pickle, join_tokenizer
from stt2v.export.weights.sources import Part, sources_of

WORK = ".pull"
INTERPOLATOR = "ema-vfi.safetensors"
GIB = 2**30


@dataclass(frozen=True)
class PulledWeights:
    """The folder of a model's weights, and which of its files this pull has made."""

    folder: Path
    made: tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """A file of the weight folder, `target`, and the published files that it is made of."""

    target: str
    remotes: tuple[Remote, ...]
    keep: str

    @property
    def plain(self) -> bool:
        """Whether the published file is taken as it is."""
        suffixes = {PurePosixPath(name).suffix for name in (self.target, *(remote.name for remote in self.remotes))}
        return len(self.remotes) == len(suffixes) == 1

    @property
    def digests(self) -> tuple[str, ...]:
        """Hashes of the published files."""
        return tuple(remote.fingerprint.digest for remote in self.remotes)

    def convert(self, sources: Sequence[Path], target: Path) -> None:
        """Make `target` of the downloaded files."""
        if target.suffix == ".json":
            merges, vocabulary = sources
            join_tokenizer(vocabulary, merges, target)
        else:
            convert_pickle(sources[0], target, self.keep)


def pull_model(
    model: str, to: Path | None = None, vfi_weights: Path | None = None, progress: Progress | None = None
) -> PulledWeights:
    """Bring the published weights of `model` into the folder `to`, or where the store keeps them.

    What is there already is verified and kept. The first pull locks commits and hashes, later ones go by the lock.
    vfi_weights: EMA-VFI's checkpoint, which is on no hub.

    Raises UsageError, InputError for `vfi_weights`, ExportError.
    """
    parts, folder, watcher = sources_of(model), to or weight_folder(model), progress or Silent()
    if not parts:
        raise UsageError(f"model {model!r} needs no pull: its networks come with stt2v")
    try:
        with _working_in(folder) as work:
            pull = _Pull(folder, work, watcher)
            if vfi_weights:
                pull.interpolator(vfi_weights)
            pull.all(parts)
    except OSError as error:
        raise ExportError(f"weights cannot be put into {folder}: {error}; check the path and the free space") from error
    declared = MODELS.get(model)
    if declared and declared.interpolate and not (folder / INTERPOLATOR).exists():
        watcher.note(
            f"{folder} has no interpolator, so that engines built of it need `generate --no-interpolate`; EMA-VFI is "
            "published as a file on a drive: download ours.pkl and pull with --vfi-weights PATH"
        )
    return PulledWeights(folder, tuple(pull.made))


@contextmanager
def _working_in(folder: Path) -> Iterator[Path]:
    """A folder for what is not whole yet; it stays after an error, so that the next pull goes on with it."""
    work = folder / WORK
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"another pull is at work in {folder}; wait until it has ended") from error
        yield work
        shutil.rmtree(work)


class _Pull:
    """One pull into `folder`, whose lock is kept up to date with what is there."""

    def __init__(self, folder: Path, work: Path, progress: Progress) -> None:
        self.folder = folder
        self.work = work
        self.progress = progress
        self.lock = PullLock.read(folder)
        self.made: list[str] = []

    def interpolator(self, source: Path) -> None:
        """Convert EMA-VFI's checkpoint. Raises InputError, ExportError."""
        if not source.is_file():
            raise InputError(f"{source}: no such file, expected EMA-VFI's ours.pkl; check --vfi-weights")
        digests = (Fingerprint.of(source).digest,)
        if not self._is_converted(INTERPOLATOR, digests):
            self._convert(INTERPOLATOR, digests, lambda target: convert_ema_vfi(source, target))

    def all(self, parts: Sequence[Part]) -> None:
        """Bring what is missing or damaged. Raises ExportError."""
        items = self._resolve(parts)
        self._refuse_strangers(parts, {item.target for item in items})
        self.progress.stage("verify", len(items))
        missing = []
        for item in items:
            if not self._is_there(item):
                missing.append(item)
            self.progress.advance("verify", file=item.target)
        self._check_space(missing)
        for item in missing:
            self._make(item)

    def _resolve(self, parts: Sequence[Part]) -> list[Item]:
        """The files of the folder; locks the published ones that they are made of before any of them is fetched."""
        snapshots = {name: self._snapshot(name) for name in dict.fromkeys(part.repository for part in parts)}
        items = [item for part in parts for item in items_of(part, snapshots[part.repository])]
        remotes = [remote for item in items for remote in item.remotes]
        taken = {
            name: Snapshot(found.commit, {r.name: r.fingerprint for r in remotes if r.repository == name})
            for name, found in snapshots.items()
        }
        self._write(replace(self.lock, repositories=taken))
        return items

    def _snapshot(self, repository: str) -> Snapshot:
        locked = self.lock.repositories.get(repository)
        if offline():
            return locked or list_cached(repository)
        found = list_files(repository)
        if locked and found.commit != locked.commit:
            self.progress.note(
                f"{repository} has moved on to {found.commit[:12]}, {locked.commit[:12]} is kept; to follow, delete "
                f"{self.folder}/pull.lock.json and pull again"
            )
            found = list_files(repository, locked.commit)
        if locked:
            self._check_lock(repository, locked, found.files)
        return found

    def _check_lock(self, repository: str, locked: Snapshot, files: Mapping[str, Fingerprint]) -> None:
        for name, fingerprint in locked.files.items():
            if files.get(name) != fingerprint:
                raise ExportError(
                    f"{repository}/{name} is published as {files[name].digest[:12] if name in files else 'nothing'}, "
                    f"locked as {fingerprint.digest[:12]} at the same commit; somebody changed it: check HF_ENDPOINT, "
                    f"or delete {self.folder}/pull.lock.json to trust what is there now"
                )

    def _refuse_strangers(self, parts: Sequence[Part], targets: set[str]) -> None:
        """What lies in the folder of a network is loaded with it."""
        for part in parts:
            for path in (self.folder / part.target).glob("*.safetensors") if part.target.endswith("/") else ():
                if part.target + path.name not in targets:
                    raise ExportError(f"{path} is no file of this network but would be loaded with it; move it away")

    def _is_there(self, item: Item) -> bool:
        if item.plain:
            return item.remotes[0].fingerprint.matches(self.folder / item.target)
        return self._is_converted(item.target, item.digests)

    def _is_converted(self, target: str, digests: tuple[str, ...]) -> bool:
        known = self.lock.converted.get(target)
        return known is not None and known.sources == digests and known.result.matches(self.folder / target)

    def _check_space(self, items: Sequence[Item]) -> None:
        needed, free = sum(map(self._bytes, items)), shutil.disk_usage(self.folder).free
        if needed > free:
            raise ExportError(
                f"the pull needs {needed / GIB:.2f} GiB more in {self.folder}, {free / GIB:.2f} GiB are free; "
                "free some space, or choose another disk with --to"
            )

    def _bytes(self, item: Item) -> int:
        """What the item takes while it is made: a converted file lies beside the published one."""
        needed = 0 if item.plain else sum(remote.fingerprint.size for remote in item.remotes)
        for remote in item.remotes:
            cached, partial = find_cached(remote), self._partial(remote)
            if cached is None:
                needed += remote.fingerprint.size - (partial.stat().st_size if partial.exists() else 0)
            elif item.plain and cached.stat().st_dev != self.folder.stat().st_dev:
                needed += remote.fingerprint.size
        return needed

    def _partial(self, remote: Remote) -> Path:
        return self.work / f"{remote.fingerprint.digest[:16]}-{PurePosixPath(remote.name).name}.part"

    def _make(self, item: Item) -> None:
        sources = [self._obtain(remote) for remote in item.remotes]
        if item.plain:
            self._place(sources[0], item.target)
        else:
            self._convert(item.target, item.digests, lambda target: item.convert(sources, target))
        for remote in item.remotes:
            self._partial(remote).unlink(missing_ok=True)

    def _obtain(self, remote: Remote) -> Path:
        """The published file, verified, from the hub's cache or the hub itself."""
        cached = find_cached(remote)
        if cached and remote.fingerprint.matches(cached):
            return cached
        partial = self._partial(remote)
        fetch(remote, partial, self.progress)
        if not remote.fingerprint.matches(partial):
            partial.unlink()
            raise ExportError(
                f"{remote.repository}/{remote.name} came damaged: its hash is not {remote.fingerprint.digest[:12]}; "
                "it was thrown away, pull again"
            )
        return partial

    def _place(self, source: Path, target: str) -> None:
        """Put a whole file at its place: moved from here, linked from the hub's cache, copied from another disk."""
        staged = source
        if source.parent != self.work:
            staged = self.work / "staged"
            staged.unlink(missing_ok=True)
            try:
                os.link(source, staged)
            except OSError:
                shutil.copyfile(source, staged)
        self._install(staged, target)

    def _convert(self, target: str, digests: tuple[str, ...], convert: Callable[[Path], None]) -> None:
        """Make `target` by `convert`, and record of what: its own hash alone would not tell that it is current."""
        self.progress.stage(f"convert {target}", 1)
        staged = self.work / f"staged{Path(target).suffix}"
        convert(staged)
        result = Converted(digests, Fingerprint.of(staged))
        self._write(replace(self.lock, converted={**self.lock.converted, target: result}))
        self._install(staged, target)
        self.progress.advance(f"convert {target}")

    def _install(self, staged: Path, target: str) -> None:
        (self.folder / target).parent.mkdir(parents=True, exist_ok=True)
        staged.replace(self.folder / target)
        self.made.append(target)

    def _write(self, lock: PullLock) -> None:
        self.lock = lock
        lock.write(self.folder)


def items_of(part: Part, snapshot: Snapshot) -> list[Item]:
    """The files of the folder that `part` comes to. Raises ExportError when the repository has none of its files."""
    names: list[str] = []
    for choice in part.choices:
        names = names or sorted(name for name in snapshot.files if re.fullmatch(choice, name))
    if not names:
        raise ExportError(
            f"{part.repository} at {snapshot.commit[:12]} has no file like {part.choices[0]}; it is published "
            "otherwise now: look for a newer stt2v, or give a complete folder to `build-engines --weights`"
        )
    remotes = tuple(Remote(part.repository, snapshot.commit, name, snapshot.files[name]) for name in names)
    if not part.target.endswith("/"):
        return [Item(part.target, remotes, part.keep)]
    return [Item(part.target + _file_name(remote.name), (remote,), part.keep) for remote in remotes]


def _file_name(published: str) -> str:
    """Without the variant, so that another variant takes the file's place instead of lying beside it."""
    name = PurePosixPath(published).with_suffix(".safetensors").name
    return name.replace(".fp16", "", 1)
