"""Where the files of each video lie. Names come from tickets alone, so nothing in a request is ever a path."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stt2v.engine.errors import InputError, OutputError
from stt2v.engine.home import private_folder
from stt2v.engine.paths import is_folder
from stt2v.engine.runs.folder import KeptRun, find_run, remove_runs
from stt2v.engine.server.ticket import Ticket
from stt2v.engine.views import Views


@dataclass(frozen=True)
class VideoFiles:
    """The files of one video, in a folder of its own."""

    folder: Path

    @property
    def video(self) -> Path:
        return self.folder / "video.mp4"

    @property
    def picture(self) -> Path:
        return self.folder / "picture.png"

    @property
    def live(self) -> Path:
        return self.folder / "live.mp4"

    @property
    def sheet(self) -> Path:
        return self.folder / "sheet.png"

    @property
    def thumbnail(self) -> Path:
        return self.folder / "thumbnail.jpg"

    @property
    def views(self) -> Views:
        """What is shown of it while it is made."""
        return Views(self.live, self.sheet)


@dataclass(frozen=True)
class Files:
    """The folder of everything that a server keeps."""

    folder: Path

    @classmethod
    def at(cls, folder: Path) -> "Files":
        """Those in `folder`: made for this user alone where it is not there, else with the rights that it has.

        Raises OutputError.
        """
        files = cls(folder)
        try:
            if not is_folder(folder):
                private_folder(folder)
            files.queue.touch(0o600)
        except OSError as error:
            raise OutputError(
                f"folder {folder} cannot be made or written ({error.strerror}); choose another --data"
            ) from error
        return files

    @property
    def queue(self) -> Path:
        return self.folder / "queue.sqlite"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def of(self, name: str) -> VideoFiles:
        """The files of the video whose ticket is called `name`."""
        return VideoFiles(self.folder / "videos" / name)

    def run_of(self, name: str) -> KeptRun | None:
        """What is finished of a video, where that is kept."""
        try:
            return find_run(self.runs, self.of(name).video)
        except InputError:
            return None

    @contextmanager
    def begun(self, ticket: Ticket) -> Iterator[VideoFiles]:
        """The folder of a video that is asked for now; it goes again where the block fails."""
        files = self.of(ticket.id)
        private_folder(files.folder)
        try:
            yield files
        except BaseException:
            self.remove(ticket)
            raise

    def remove(self, ticket: Ticket) -> None:
        """Remove all that is kept of a video."""
        if run := self.run_of(ticket.id):
            list(remove_runs([run]))
        shutil.rmtree(self.of(ticket.id).folder, ignore_errors=True)
