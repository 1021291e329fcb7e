"""`stt2v runs list`, `show` and `prune`."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from stt2v.engine.commands.options import JsonOption
from stt2v.engine.commands.output import say, say_json
from stt2v.engine.errors import UsageError
from stt2v.engine.media.whole import remove_left
from stt2v.engine.paths import real
from stt2v.engine.record import flat
from stt2v.engine.runs.folder import LIMIT, KeptRun, all_runs, remove_runs, runs_folder
from stt2v.engine.size import in_words

runs = typer.Typer(help="What is kept of videos in the making.")

RunDir = Annotated[Path | None, typer.Option("--run-dir", help="The folder of the runs. Default: runs in the store.")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN]...", help="Names of runs, or the videos that they make.")
]


@runs.callback(invoke_without_command=True)
def options(context: typer.Context) -> None:
    """List, show and prune what is kept of videos in the making."""
    if context.invoked_subcommand is None:
        say(context.get_help())


@runs.command("list")
def list_runs(run_dir: RunDir = None, as_json: JsonOption = False) -> None:
    """List the runs, oldest first, with what they take of the disk."""
    found = all_runs(runs_folder(run_dir))
    if as_json:
        say_json({"runs": [_facts(run) for run in found], "bytes": sum(run.bytes for run in found), "limit": LIMIT})
        return
    for run in found:
        say(f"{run.name}: {_state(run)}, {in_words(run.bytes)}, {run.record.output}")
    say(f"{len(found)} runs take {in_words(sum(run.bytes for run in found))}; beyond {in_words(LIMIT)} old ones go")


@runs.command()
def show(
    name: Annotated[str, typer.Argument(metavar="RUN", help="The name of a run, or the video that it makes.")],
    run_dir: RunDir = None,
    as_json: JsonOption = False,
) -> None:
    """Show one run: its settings, and how far it is."""
    run = _named(all_runs(runs_folder(run_dir)), name)[-1]
    if as_json:
        say_json({**_facts(run), "made": dict(run.record.made)})
        return
    say(f"{run.name}: {_state(run)}, {in_words(run.bytes)}")
    say(f"video {run.record.output}, begun {time.strftime('%Y-%m-%d %H:%M', time.localtime(run.record.created))}")
    for key, value in flat(run.record.made):
        say(f"  {key}: {value}")


@runs.command()
def prune(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all runs, unfinished ones too.")] = False,
    run_dir: RunDir = None,
) -> None:
    """Remove the runs of whole videos, or those that are named; and what killed processes left beside the videos."""
    found = all_runs(runs_folder(run_dir))
    for folder in {real(Path(run.record.output)).parent for run in found}:
        remove_left(folder)
    chosen = [run for run in found if everything or run.is_whole]
    if names:
        chosen = list({run.name: run for name in names for run in _named(found, name)}.values())
    sizes = {run.name: run.bytes for run in chosen}
    freed = 0
    for run in remove_runs(chosen):
        say(f"removed {run.name}, {in_words(sizes[run.name])}, of {run.record.output}")
        freed += sizes.pop(run.name)
    for name in sizes:
        say(f"left {name}, which another process works on")
    say(f"freed {in_words(freed)}; {len(all_runs(runs_folder(run_dir)))} runs are left")


def _named(found: Sequence[KeptRun], name: str) -> list[KeptRun]:
    chosen = [run for run in found if name == run.name or run.is_of(Path(name))]
    if not chosen:
        raise UsageError(f"run is {name!r}, expected a name or a video of `stt2v runs list`")
    return chosen


def _state(run: KeptRun) -> str:
    if run.is_whole:
        return f"whole, {run.frames} frames"
    early = f", ended early with {run.frames}" if run.frames else ""
    return f"unfinished, {run.chunks} chunks are there, {run.asked} frames asked for{early}"


def _facts(run: KeptRun) -> dict[str, object]:
    return {
        "name": run.name,
        "output": run.record.output,
        "created": run.record.created,
        "bytes": run.bytes,
        "chunks": run.chunks,
        "frames": run.frames,
        "asked": run.asked,
    }
