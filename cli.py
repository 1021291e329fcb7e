"""The command line of stt2v: its commands, what an error says, and with which exit code it leaves."""

import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from stt2v import __version__
from stt2v.bench.commands import bench, mawe
from stt2v.engine.commands.batch import batch
from stt2v.engine.commands.doctor import doctor
from stt2v.engine.commands.engines import engines
from stt2v.engine.commands.generate import generate
from stt2v.engine.commands.models import models
from stt2v.engine.commands.output import say
from stt2v.engine.commands.plan import plan
from stt2v.engine.commands.runs import runs
from stt2v.engine.commands.serve import serve
from stt2v.engine.errors import Stt2vError
from stt2v.engine.flags import wrong_words
from stt2v.export.commands import build_engines, pull

INTERRUPTED, TERMINATED = 130, 143

app = typer.Typer(
    name="stt2v",
    help="Long videos from one prompt or one image: StreamingSVD and StreamingT2V, compiled.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every error is one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words  # wherever it stands, so that a failed line can be repeated with it at the end
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _terminate)
        code = app([word for word in words if word != "--debug"], prog_name="stt2v", standalone_mode=False) or 0
    except typer.TyperException as error:
        return _fail(f"{wrong_words(error)}; see `{_command_path(error)} --help`", error.exit_code, debug)
    except Stt2vError as error:
        return _fail(str(error), error.exit_code, debug)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error}; run with --debug to see where", 1, debug)
    except SystemExit as stop:
        code = int(stop.code or 0)
    if code in (INTERRUPTED, TERMINATED):
        sys.stderr.write("stt2v: stopped\n")
    return int(code)


def _terminate(number: int, frame: object) -> None:
    """Leave as every error does, through the context managers, which remove what is half-written.

    It must not write: the signal may have come in the middle of a line of progress.
    """
    raise SystemExit(TERMINATED)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    sys.stderr.write(f"stt2v: error: {' '.join(message.split())}\n")
    return code


def _command_path(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context else "stt2v"


def _version(value: bool) -> None:
    if value:
        say(f"stt2v {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that stand before any command."""
    if context.invoked_subcommand is None:
        say(context.get_help())


for command in (generate, batch, serve, build_engines, pull, plan, mawe, models, doctor):
    app.command()(command)
app.add_typer(engines, name="engines")
app.add_typer(runs, name="runs")
app.add_typer(bench)
