"""`stt2v engines list`, `show`, `verify` and `prune`."""

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from stt2v.engine.certificate import check_certificate
from stt2v.engine.commands.options import JsonOption
from stt2v.engine.commands.output import say, say_json
from stt2v.engine.errors import BackendError, EngineSetError
from stt2v.engine.inventory import StoredSet, find_stored, inventory, prune
from stt2v.engine.manifest import EngineEntry
from stt2v.engine.parity import read_parity
from stt2v.engine.progress import Progress
from stt2v.engine.size import in_words
from stt2v.engine.store import SHIPPED
from stt2v.engine.trust import admit

engines = typer.Typer(help="The engine sets that are here.")


@engines.callback(invoke_without_command=True)
def options(context: typer.Context) -> None:
    """List, show, verify and prune engine sets."""
    if context.invoked_subcommand is None:
        say(context.get_help())


@engines.command("list")
def list_sets(as_json: JsonOption = False) -> None:
    """List the sets: size, last use, and why one is stale."""
    sets = inventory()
    if as_json:
        say_json({"sets": [found.to_json() for found in sets]})
        return
    for found in sets:
        say(f"{found.state:10} {in_words(found.bytes):>9}  {found.name}{_notes(found)}")
        for reason in found.reasons:
            say(f"           {reason}")


@engines.command()
def show(
    name: Annotated[str, typer.Argument(metavar="SET", help="A name that `engines list` has, or a folder.")],
    as_json: JsonOption = False,
) -> None:
    """Show one set and what each of its engines costs."""
    found = find_stored(name)
    if as_json:
        say_json(found.to_json() | {"engines": [*_rows(found)]})
        return
    say(f"{found.name}: {found.state}, {in_words(found.bytes)} in {found.directory}")
    for reason in found.reasons:
        say(f"  {reason}")
    if found.manifest is None:
        return
    facts = found.manifest
    tools = ", ".join(f"{tool} {version}" for tool, version in facts.tools.items())
    say(f"  {facts.model['name']} for {facts.backend} on {facts.target} in {facts.precision}, built with {tools}")
    say(f"  weights: {_where_weights_are(found)}")
    for row in _rows(found):
        say(
            f"  {row['graph']}: {in_words(row['bytes'])}, weights {in_words(row['weight_bytes'])}, activations"
            f" {in_words(row['activation_bytes'])}, built in {row['seconds']:.0f} s, {_parity(row)}"
        )


@engines.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[SET]...", help="Names or folders. Default: all.", show_default=False)
    ] = None,
    on_card: Annotated[
        bool, typer.Option("--on-card", help="Run every engine again, also of sets that have their certificate.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every file of the sets with what was built, and what the engines compute here with what they should."""
    from stt2v.engine.console import progress_on

    chosen = [find_stored(name) for name in names] if names else inventory()
    with progress_on(sys.stderr) as progress:
        faults = {
            str(found.directory): _fault(found, on_card, progress) for found in chosen if found.state != "unfinished"
        }
    if as_json:
        say_json({"sets": faults})
    for directory, fault in () if as_json else faults.items():
        say(f"BAD {fault}" if fault else f"ok  {directory}")
    if any(faults.values()):
        raise typer.Exit(1)


@engines.command("prune")
def prune_sets(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove sets of the store that are stale or refused, and what stopped builds left."""
    gone = [found for found in inventory() if found.state != "current" and found.directory.parent != SHIPPED]
    gone = [found for found in gone if dry_run or prune(found)]
    total = sum(found.bytes for found in gone)
    if as_json:
        say_json({"removed": [found.to_json() for found in gone], "bytes": total, "dry_run": dry_run})
        return
    for found in gone:
        say(f"{found.state:10} {in_words(found.bytes):>9}  {found.name}: {'; '.join(found.reasons)}")
    say(f"{'would free' if dry_run else 'freed'} {in_words(total)}")


def _fault(found: StoredSet, on_card: bool, progress: Progress) -> str | None:
    if found.manifest is None:
        return "; ".join(found.reasons)
    try:
        manifest = admit(found.directory, anew=True)
        if found.runs_here:
            check_certificate(found.directory, manifest, progress, on_card)
    except (EngineSetError, BackendError) as error:
        return str(error)
    return None


def _notes(found: StoredSet) -> str:
    """What else is to be known of a set, in brackets."""
    if found.manifest is None:
        return ""
    used = f"last used {found.used.astimezone():%Y-%m-%d %H:%M}" if found.used else "not used yet"
    where = "shipped" if found.directory.parent == SHIPPED else used
    return f" ({where})" if found.runs_here else f" ({where}, not for this machine)"


def _where_weights_are(found: StoredSet) -> str:
    inside = found.manifest.files if found.manifest else {}
    if "weights.bin" in inside:
        return f"{in_words(inside['weights.bin'].bytes)} in weights.bin, each tensor once for all engines"
    return "inside each engine, which is how this backend keeps them: those that engines have in common are there twice"


def _rows(found: StoredSet) -> Iterator[dict[str, Any]]:
    if found.manifest is None:
        return
    parity = {row.graph: row for row in read_parity(found.directory)}
    for entry in found.manifest.engines:
        row = parity.get(entry.spec.name)
        measured = {name: value for name, value in row.to_json().items() if name in ("rel", "limit")} if row else {}
        yield _costs(entry) | {"bytes": found.manifest.files[entry.file].bytes} | measured


def _parity(row: Mapping[str, Any]) -> str:
    """How far an engine is off, in words; None is infinitely far."""
    if "rel" not in row:
        return "not certified"
    return f"rel {math.inf if row['rel'] is None else row['rel']:.1e} of {row['limit']:g}"


def _costs(entry: EngineEntry) -> dict[str, Any]:
    facts = ("file", "backend", "target", "precision", "weight_bytes", "activation_bytes", "seconds")
    return {"graph": entry.spec.name} | {fact: getattr(entry, fact) for fact in facts}
