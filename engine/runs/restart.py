"""Going on in a new process where a card has failed so that this one can never use it again."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from stt2v.engine.errors import DeviceLostError
from stt2v.engine.flags import RequestFlags
from stt2v.engine.runs.folder import all_runs, runs_folder

COUNT = "STT2V_RESTARTS"  # in the environment: how often it has happened in a row
MOST = 3  # restarts of one video: a card that fails more often has a fault that another try does not mend
SCRIPT = "import sys; from stt2v.cli import main; sys.exit(main())"
OWN = {"resume", "from_chunk", "output"}


@contextmanager
def restarting(words: Callable[[], Sequence[str]]) -> Iterator[None]:
    """When a card is lost inside, replace this process by one with the command line that `words` gives then.

    Everything that was opened inside is closed first. Raises DeviceLostError when that has happened `MOST` times.
    """
    try:
        yield
    except DeviceLostError as error:
        done = int(os.environ.get(COUNT, "0"))
        if done >= MOST:
            raise
        sys.stderr.write(f"{error}; a new process goes on from the last finished unit\n")
        sys.stderr.flush()
        command = [sys.executable, "-c", SCRIPT, *words()]
        os.execve(sys.executable, command, {**os.environ, COUNT: str(done + 1)})


def going_on(output: Path, run_dir: Path | None, context: Any, began: float) -> Sequence[str]:
    """The command line that resumes `output` where its run has begun since `began`, else the one given.

    began: seconds since 1970; context: typer's, of `generate`.
    """
    runs = (run for run in all_runs(runs_folder(run_dir)) if run.record.created >= began)
    return resuming(output, context) if any(run.is_of(output) for run in runs) else sys.argv[1:]


def resuming(output: Path, context: Any) -> Sequence[str]:
    """The command line that resumes `output` with what was said of the run; the request is kept there.

    context: typer's, of `generate`.
    """
    words = ["generate", "--resume", str(output)]
    left = OWN | {field.name for field in fields(RequestFlags)}
    for option in context.command.params:
        value = context.params.get(option.name)
        if option.name in left or value is None or value == option.default:
            continue
        words += [option.opts[0]] if option.is_flag else [option.opts[0], str(value)]
    return words
