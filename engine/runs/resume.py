"""Going on with a run: as it is, or as another take that shares its first chunks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from stt2v.engine.errors import UsageError
from stt2v.engine.models import find_model
from stt2v.engine.plan import plan_run
from stt2v.engine.record import Earlier, Origin, command_of
from stt2v.engine.request import Request
from stt2v.engine.runs.folder import KeptRun

LATE: Final = {"num_frames", "fps", "enhancing", "interpolate"}
"""The settings that leave all chunks as they are."""
SPELLED: Final = {"streaming": "steps or guidance", "drifting": "on-drift or drift-limits"}
"""The flags of settings that have another name."""


@dataclass(frozen=True)
class Resumption:
    """What to make of a run: `request`, in the run itself, or in a new one that takes over `shared` chunks.

    otherwise: whether other engines or another machine may make the rest, as the video's file will say.
    """

    kept: KeptRun
    request: Request
    output: Path
    shared: int | None
    origin: Origin
    otherwise: bool = False


def resumption(kept: KeptRun, given: Mapping[str, Any], from_chunk: int | None, output: Path | None) -> Resumption:
    """What `given`, the fields of a request that were said, make of the run `kept`.

    Raises UsageError when they change chunks that are there, and InputError for a damaged run.
    """
    record, own = kept.settings, Path(kept.record.output)
    before, request = record.again(record.model, {}), record.again(record.model, given)
    changed = _changed(record.model, before, request)
    same = output is None or kept.is_of(output)
    if from_chunk is None and not changed and same:
        origin = Origin(_picture(kept, given), _earlier(kept, kept.chunks, otherwise=False))
        return Resumption(kept, request, own, None, origin)
    if output is None or same:
        raise UsageError(f"this makes another video than {own}; name it with --output")
    if from_chunk is None and changed - LATE:
        names = ", ".join(SPELLED.get(name, name) for name in sorted(changed - LATE))
        raise UsageError(f"{names} would change chunks that are there; give --from-chunk")
    if from_chunk is not None and not 0 <= from_chunk <= kept.chunks:
        raise UsageError(f"--from-chunk is {from_chunk}, expected 0 to {kept.chunks}, as many as are there")
    alike = min(kept.chunks, _chunks_alike(record.model, before, request))
    shared, otherwise = (alike, False) if from_chunk is None else (from_chunk, True)
    origin = Origin(_picture(kept, given), _earlier(kept, shared, otherwise))
    return Resumption(kept, request, output, shared, origin, otherwise)


def _picture(kept: KeptRun, given: Mapping[str, Any]) -> Path | None:
    """Where the picture of the run was when it began; None where another is given."""
    path = None if "image" in given else kept.record.made.get("image_path")
    return Path(path) if path else None


def _earlier(kept: KeptRun, shared: int, otherwise: bool) -> Earlier | None:
    """What a video goes on from that keeps the first `shared` chunks of the run; otherwise: as `Resumption` says."""
    own = kept.settings.earlier
    if own and shared <= own.chunks:
        return replace(own, chunks=shared) if shared else None
    if otherwise and shared:
        made = kept.record.made
        video = kept.record.output
        return Earlier(shared, video, command_of(made, video), made.get("earlier"))
    return own


def _chunks_alike(name: str, before: Request, after: Request) -> int:
    """How many of the first chunks of two requests are told the same: a prompt's time may fall on another chunk."""
    model = find_model(name)
    first, second = (plan_run(model, request.resolve(model)) for request in (before, after))
    if not second.prompts:
        return len(second.chunks)
    pairs = zip(first.chunk_prompts, second.chunk_prompts, strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _changed(name: str, before: Request, after: Request) -> set[str]:
    """The settings in which two requests differ."""
    model = find_model(name)
    first, second = before.resolve(model).to_json(), after.resolve(model).to_json()
    return {name for name in first if first[name] != second[name]}
