"""What a run is of: the file `run.json` in its directory, written once when it begins."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stt2v.engine.errors import InputError
from stt2v.engine.record import record_of
from stt2v.engine.typed_json import read_as

RECORD, PICTURE, VIDEO = "run.json", "picture", "video.json"
FORMAT = 1


@dataclass(frozen=True)
class RunRecord:
    """output: the video's absolute path; made: everything that shapes it, as its file says, and the environment.

    engines: the folder of the engine set where one was named; shared: how many chunks come from the run that this one
    branched from; created: seconds since 1970.
    """

    output: str
    engines: str | None
    shared: int
    made: Mapping[str, Any]
    created: float
    format: int = FORMAT

    def write(self, directory: Path) -> None:
        """Write it into the run's directory."""
        (directory / RECORD).write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")


def new_record(output: Path, engines: Path | None, made: Mapping[str, Any], shared: int = 0) -> RunRecord:
    """The record of a run that begins now."""
    return RunRecord(str(output.absolute()), str(engines.absolute()) if engines else None, shared, made, time.time())


def read_record(directory: Path) -> RunRecord:
    """The record of the run in `directory`. Raises InputError."""
    try:
        data = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        record: RunRecord = read_as(RunRecord, data)
        record_of(Path(record.output), record.made)
        time.localtime(record.created)
    except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{directory} is not the directory of a run ({error}); see `stt2v runs list`") from error
    if record.format != FORMAT:
        raise InputError(f"run {directory} has format {record.format!r}, this stt2v reads format {FORMAT}; start anew")
    return record
