"""The certificate of an engine set: every engine run on this machine, on stored inputs, beside what it should give.

An engine that was built ahead of time, or on another machine, may be wrong on this one: a driver, a kernel chosen for
the card, a library. So nothing is made with a set before each of its engines has passed here, once.
"""

import math
import time
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from stt2v.engine.backends import open_backend
from stt2v.engine.backends.base import Backend, Engine, Value, Values
from stt2v.engine.errors import BackendError, DeviceLostError, EngineSetError, OutOfMemoryError, ParityError
from stt2v.engine.manifest import PARITY, EngineEntry, Manifest
from stt2v.engine.parity import Parity, compare, limit_for, read_parity, write_parity
from stt2v.engine.progress import Progress, Silent
from stt2v.engine.reference import Reference, read_reference
from stt2v.engine.seal import seal
from stt2v.engine.stages.denoise import fused_steps
from stt2v.engine.store import SHIPPED

Place = tuple[str, str]
"""A backend and its target."""

PATIENCE = (math.inf, 30.0, 5.0)
"""Seconds within which runs before have to be over for an engine to be timed once more; the first may load kernels."""


def certify(backend: Backend, path: Path, entry: EngineEntry, reference: Reference) -> Parity:
    """Run the engine at `path` beside its reference. One that does not load or run is a row that has not passed.

    Raises EngineSetError when the inputs of the reference cannot be made here, DeviceLostError.
    """
    inputs = reference.inputs(entry.spec)
    name, limit = entry.spec.name, limit_for(entry.precision, reference.made_in)
    try:
        with backend.meter.measured() as load:
            engine = backend.load(path, entry.spec)
        with closing(engine):
            with backend.meter.measured() as run:
                outputs, seconds = _timed(engine, inputs)
            row = compare(name, outputs, reference.outputs, limit)
    except DeviceLostError:  # says nothing of the engine, which would count as wrong for ever
        raise
    except BackendError as error:
        row = Parity(name, np.inf, np.inf, limit, (f"does not run: {error}",), reference.made_in, backend.hardware)
        return replace(row, fits=not isinstance(error, OutOfMemoryError))
    return replace(
        row,
        reference=reference.made_in,
        hardware=backend.hardware,
        milliseconds=round(1000 * seconds, 3),
        load_bytes=load.held,
        run_bytes=run.peak,
    )


def _timed(engine: Engine, inputs: Values) -> tuple[dict[str, Value], float]:
    """The outputs, and the seconds of the fastest run until the first of them is on the host."""
    taken: list[float] = []
    for seconds in PATIENCE:
        if sum(taken) > seconds:
            break
        start = time.perf_counter()
        outputs = engine.run(inputs)
        np.asarray(next(iter(outputs.values())))  # a device may have only begun when `run` returns
        taken.append(time.perf_counter() - start)
    return outputs, min(taken)


def make_certificate(directory: Path, manifest: Manifest, progress: Progress | None = None) -> tuple[Parity, ...]:
    """Run every engine of the set in `directory`, which was admitted, and write its certificate, where it may.

    What the package ships stays as it is pinned. Raises what `measured_rows` does.
    """
    rows = tuple(measured_rows(directory, manifest, progress or Silent()))
    if directory.parent != SHIPPED:
        with suppress(OSError):  # a set that is only read from is certified again the next time
            write_parity(directory, rows)
            seal(directory, PARITY)
    return rows


def measured_rows(directory: Path, manifest: Manifest, watcher: Progress) -> Iterator[Parity]:
    """Run the engines of `manifest`, which lie in `directory`, one after the other.

    Raises EngineSetError when the set has no reference for an engine, BackendError when a backend cannot be opened.
    """
    before = {row.graph: row.fell_back_from for row in read_parity(directory)}
    backends = opened_backends(manifest)
    watcher.stage("certify", len(manifest.engines))
    for entry in manifest.engines:
        name = entry.spec.name
        reference = read_reference(directory, name)
        if reference is None:
            raise EngineSetError(
                f"engine set {directory} has no reference to check engine {name!r} by; run `stt2v build-engines` again"
            )
        row = certify(backends[entry.backend, entry.target], directory / entry.file, entry, reference)
        watcher.advance("certify", graph=name)
        yield replace(row, fell_back_from=before.get(name, ()))


def check_certificate(
    directory: Path, manifest: Manifest, progress: Progress | None = None, anew: bool = False
) -> frozenset[str]:
    """Make the certificate of a set that has none for this machine, or any set's `anew`.

    Returns the fused steps that ran out of memory, which is no fault where the set has their halves: those are to be
    used. Raises ParityError unless all engines passed, and what `make_certificate` raises.
    """
    rows = read_parity(directory)
    if anew or not _is_of(rows, manifest):
        if progress:
            progress.note(f"checking each engine of {directory} on this machine, once")
        rows = make_certificate(directory, manifest, progress)
    spared = too_large(rows)
    wrong = [f"{row.graph} ({row.found})" for row in rows if not row.passed and row.graph not in spared]
    if wrong:
        raise ParityError(
            f"engine set {directory} computes wrongly on this machine: {'; '.join(wrong)}; run `stt2v build-engines` "
            "again here, which tries other precisions and backends, or use another set"
        )
    return spared


def too_large(rows: Collection[Parity]) -> frozenset[str]:
    """The fused steps among `rows` that ran out of memory and whose halves did not."""
    fits = {row.graph: row.fits for row in rows}
    return frozenset(name for name in fused_steps(fits) if not fits[name] and fits[f"{name.removesuffix('step')}half"])


def _is_of(rows: tuple[Parity, ...], manifest: Manifest) -> bool:
    """Whether the rows are of these engines on this hardware."""
    hardware = {place: backend.hardware for place, backend in opened_backends(manifest).items()}
    wanted = {(entry.spec.name, hardware[entry.backend, entry.target]) for entry in manifest.engines}
    return {(row.graph, row.hardware) for row in rows} == wanted


def opened_backends(manifest: Manifest) -> dict[Place, Backend]:
    """What runs the engines of a set: its own backend, and those that engines fell back to. Raises BackendError."""
    places = {(manifest.backend, manifest.target), *((entry.backend, entry.target) for entry in manifest.engines)}
    return {place: open_backend(*place) for place in sorted(places)}
