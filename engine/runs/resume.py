"""Going on with a run: as it is, or as another take that shares its first chunks."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

from stt2v.engine.errors import UsageError
from stt2v.engine.models import find_model
from stt2v.engine.plan import plan_run
from stt2v.engine.request import Request
from stt2v.engine.runs.folder import KeptRun

LATE: Final = {"num_frames", "fps", "enhancing", "interpolate"}
"""The settings that leave all chunks as they are."""


@dataclass(frozen=True)
class Resumption:
    """What to make of a run: `request`, in the run itself, or in a new one that takes over `shared` chunks."""

    kept: KeptRun
    request: Request
    output: Path
    shared: int | None


def resumption(kept: KeptRun, given: Mapping[str, Any], from_chunk: int | None, output: Path | None) -> Resumption:
    """What `given`, the fields of a request that were said, make of the run `kept`.

    Raises UsageError when they change chunks that are there, and InputError for a damaged run.
    """
    record, own = kept.settings, Path(kept.record.output)
    before, request = record.again(record.model, {}), record.again(record.model, given)
    changed = _changed(record.model, before, request)
    if from_chunk is None and not changed and (output is None or output.absolute() == own):
        return Resumption(kept, request, own, None)
    if output is None or output.absolute() == own:
        raise UsageError(f"this makes another video than {own}; name it with --output")
    if from_chunk is None and changed - LATE:
        raise UsageError(f"{', '.join(sorted(changed - LATE))} would change chunks that are there; give --from-chunk")
    chunks = min(kept.chunks, _chunks_alike(record.model, before, request))
    if from_chunk is not None and not 0 <= from_chunk <= kept.chunks:
        raise UsageError(f"--from-chunk is {from_chunk}, expected 0 to {kept.chunks}, as many as are there")
    return Resumption(kept, request, output, chunks if from_chunk is None else from_chunk)


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
