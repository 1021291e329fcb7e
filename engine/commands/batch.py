"""`stt2v batch`, and what `generate` does with a folder of pictures."""

import sys
import time
from contextlib import redirect_stdout
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from stt2v.engine.batch.listing import Listed, listed_jobs
from stt2v.engine.batch.outcome import BatchReport, Outcome
from stt2v.engine.batch.workshop import Making, Workshop
from stt2v.engine.commands.options import (
    BackendOption,
    EnginesOption,
    GpusOption,
    JsonOption,
    TrustOption,
    VramOption,
)
from stt2v.engine.commands.output import say, say_json
from stt2v.engine.errors import BatchError, StoppedError, UsageError
from stt2v.engine.flags import RequestFlags, takes_flags
from stt2v.engine.runs.flags import RunFlags
from stt2v.engine.runs.interrupt import Interrupt
from stt2v.engine.runs.restart import restarting

SHOWN = 3  # failed jobs that the last line names


@takes_flags(RequestFlags, "common", lambda flags: flags)
def batch(
    jobs: Annotated[
        Path,
        typer.Argument(
            metavar="JOBS", help="jobs.jsonl (an object of flags a line), prompts.csv (with a head line), or pictures."
        ),
    ],
    common: RequestFlags,
    out: Annotated[str, typer.Option("--out", help="The folder of the videos; with --ray also a URL.")] = "out",
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Make them on this Ray cluster, or `local` (extra `cluster`)."),
    ] = None,
    backend: BackendOption = None,
    engines: EnginesOption = None,
    trust: TrustOption = False,
    gpus: GpusOption = 1,
    vram: VramOption = None,
    run_dir: Annotated[Path | None, typer.Option("--run-dir", help="As in `generate`.")] = None,
    discard_run: Annotated[bool, typer.Option("--discard-run", help="As in `generate`.")] = False,
    no_metadata: Annotated[
        bool, typer.Option("--no-metadata", help="Keep settings and seed out of the files.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make many videos. The same command goes on where it was stopped, and tries again what failed.

    The flags of a request hold for all jobs that do not say otherwise.
    """
    keep = RunFlags(run_dir=run_dir, discard_run=discard_run, on_interrupt="save")
    how = Making(backend, trust, keep, not no_metadata, gpus, vram)
    if ray is None and "://" in out:
        raise UsageError(f"--out is {out}, expected a folder; a URL needs --ray, such as --ray local")
    if ray and gpus > 1:
        raise UsageError(f"--gpus is {gpus}, with --ray each GPU makes videos of its own; leave --gpus out")
    listed = listed_jobs(jobs, common, Path() if "://" in out else Path(out), engines)
    make_all(listed, out, how, as_json, ray)


def make_all(listed: Listed, folder: str, how: Making, as_json: bool, ray: str | None = None) -> None:
    """Make the videos that are listed, here or on a Ray cluster, and report.

    Raises StoppedError when some are left or ended early, BatchError when some failed.
    """
    from stt2v.engine.batch.batch import in_turn, run_batch
    from stt2v.engine.batch.cluster import on_cluster
    from stt2v.engine.batch.share import ledger_of
    from stt2v.engine.console import progress_on

    began = time.monotonic()
    interrupt, stopped = Interrupt(how.keep.on_interrupt), None
    outcomes: list[Outcome] = []
    with (
        restarting(lambda: sys.argv[1:]),
        progress_on(sys.stderr) as progress,
        redirect_stdout(sys.stderr) if ray else interrupt.listening(),  # Ray tells stdout of what it lost
        Workshop(how, interrupt, progress) as workshop,
    ):
        make = partial(on_cluster, folder, how, ray) if ray else partial(in_turn, workshop)
        try:
            for outcome in chain(listed.refused, run_batch(listed.jobs, ledger_of(folder), make)):
                outcomes.append(outcome)
                if outcome.problem:
                    progress.note(f"{outcome.job} failed: {outcome.problem}")
                elif outcome.state != "there" and not as_json:
                    say(outcome.job)
        except StoppedError as error:
            stopped = error
        report = BatchReport(outcomes, len(listed.jobs) + len(listed.refused), time.monotonic() - began)
        progress.note(report.line())
    if as_json:
        say_json(report.to_json())
    elif ray:
        for job in (*report.of("made"), *report.of("shortened")):
            say(job)
    if stopped:
        raise stopped
    _check_all(report)


def _check_all(report: BatchReport) -> None:
    """Raise what the exit code of a finished batch comes from."""
    if failed := [*report.problems()]:
        more = f" and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        raise BatchError(
            f"{len(failed)} of {report.total} jobs failed: {'; '.join(failed[:SHOWN])}{more}; mend them and give the "
            "same command again, which makes only what is missing"
        )
    if early := report.of("shortened"):
        raise StoppedError(f"{', '.join(early[:SHOWN])} ended early; the same command goes on")
