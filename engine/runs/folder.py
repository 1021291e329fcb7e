"""The folder of all runs: beginning one, finding the one of a video, and removing old ones."""

import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stt2v.engine.errors import InputError, OutputError, UsageError
from stt2v.engine.home import home
from stt2v.engine.machine import used_disk
from stt2v.engine.media.whole import sync
from stt2v.engine.paths import real
from stt2v.engine.record import Record, record_of
from stt2v.engine.runs.chunks import CHUNK
from stt2v.engine.runs.journal import read_journal
from stt2v.engine.runs.record import PICTURE, RECORD, VIDEO, RunRecord, read_record
from stt2v.engine.runs.run import JOURNAL, LOCK, locked

LIMIT = 20 * 2**30  # bytes that the runs of whole videos may take together


@dataclass(frozen=True)
class KeptRun:
    """A run that lies in the folder, as its files say."""

    directory: Path
    record: RunRecord

    @property
    def name(self) -> str:
        return self.directory.name

    def is_of(self, output: Path) -> bool:
        """Whether it makes the video at `output`, however that is spelled."""
        return real(Path(self.record.output)) == real(output)

    @property
    def is_whole(self) -> bool:
        """Whether its video has all frames that were asked for."""
        return self.frames >= self.asked

    @property
    def settings(self) -> Record:
        """What the video is made with; its picture is the run's copy. Raises InputError."""
        picture = self.directory / PICTURE
        place = {"image_path": str(picture)} if picture.is_file() else {}
        return record_of(Path(self.record.output), {**self.record.made, **place})

    @property
    def bytes(self) -> int:
        """What it takes of the disk; what it shares with other runs counts in each."""
        return used_disk(self.directory)

    @property
    def chunks(self) -> int:
        """How many chunks are there."""
        return sum(unit.startswith(CHUNK) for unit in read_journal(self.directory / JOURNAL)[0])

    @property
    def frames(self) -> int:
        """How many frames its video has; 0 before there is one."""
        try:
            return int(json.loads((self.directory / VIDEO).read_text())["frames"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    @property
    def asked(self) -> int:
        """How many frames the video should have."""
        return int(self.record.made["num_frames"])


def runs_folder(run_dir: Path | None = None) -> Path:
    """Where runs are kept: `run_dir`, by default in the store."""
    return run_dir or home() / "runs"


def begin_run(folder: Path, record: RunRecord, picture: Path | None) -> Path:
    """Make the directory of a new run, with a copy of the picture that it starts from. Raises OutputError."""
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(record.created))}-{Path(record.output).stem[:40]}-"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=name, dir=folder))  # for this user alone
        try:
            if picture is not None:
                shutil.copyfile(picture, directory / PICTURE)
            record.write(directory)
            for path in (directory / RECORD, directory, folder):
                sync(path)
        except BaseException:
            shutil.rmtree(directory)  # which is no run yet, so nobody would find it
            raise
    except OSError as error:
        raise OutputError(f"run cannot be kept in {folder} ({error}); choose another place with --run-dir") from error
    return directory


def all_runs(folder: Path) -> list[KeptRun]:
    """The runs in `folder`, oldest first; what is no run is left out."""
    found = []
    for directory in folder.iterdir() if folder.is_dir() else ():
        with suppress(InputError):
            found.append(KeptRun(directory, read_record(directory)))
    return sorted(found, key=lambda run: run.record.created)


def find_run(folder: Path, output: Path) -> KeptRun:
    """The newest run of the video `output`. Raises InputError when there is none."""
    runs = [run for run in all_runs(folder) if run.is_of(output)]
    if not runs:
        raise InputError(
            f"no run of {output} is kept in {folder}; see `stt2v runs list`, or make the video again with --from"
        )
    return runs[-1]


def resume_command(output: str, folder: Path) -> str:
    """The command that goes on with a video whose run is in `folder`."""
    place = [] if folder == runs_folder() else [f"--run-dir={folder}"]
    return shlex.join(["stt2v", "generate", f"--resume={output}", *place])


def remove_runs(runs: Sequence[KeptRun]) -> Iterator[KeptRun]:
    """Remove runs, but for those that a process works on or removes; yields each that is gone."""
    for run in runs:
        if _remove(run.directory):
            yield run


def _remove(directory: Path) -> bool:
    """Remove a run. It takes another name first, since of two processes at it only one can give it that."""
    gone = directory.with_name(f".{directory.name}")
    try:
        with locked(directory / LOCK, f"run {directory}"):
            directory.rename(gone)
            shutil.rmtree(gone)
    except (UsageError, FileNotFoundError):
        return False
    return True


def excess(runs: Sequence[KeptRun], limit: int = LIMIT) -> list[KeptRun]:
    """The oldest of `runs` that must go for the rest to take at most `limit` bytes."""
    left = sum(run.bytes for run in runs)
    gone = []
    for run in runs:
        if left <= limit:
            break
        gone.append(run)
        left -= run.bytes
    return gone
