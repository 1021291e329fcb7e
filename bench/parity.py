"""`stt2v bench parity`: how far the engines of a set are from their references here, and where one goes wrong."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from stt2v.engine.certificate import measured_rows
from stt2v.engine.engine_set import declared_model
from stt2v.engine.errors import UsageError
from stt2v.engine.manifest import EngineEntry, Manifest
from stt2v.engine.models.model import Model
from stt2v.engine.parity import Parity, limit_for
from stt2v.engine.progress import Progress
from stt2v.engine.reference import read_reference
from stt2v.engine.size import in_words
from stt2v.engine.store import weight_folder
from stt2v.engine.trust import admit

if TYPE_CHECKING:
    from stt2v.bench.bisect import Bisection
    from stt2v.export.graph import GraphMaker


@dataclass(frozen=True)
class ParityReport:
    """The rows of a set's engines, and the searches that were made."""

    directory: Path
    rows: tuple[Parity, ...]
    searches: "tuple[Bisection, ...]" = ()

    def lines(self) -> Iterator[str]:
        """As a table."""
        yield f"{self.directory}, on {', '.join(sorted({row.hardware for row in self.rows}))}"
        width = max(len(row.graph) for row in self.rows)
        yield f"  {'engine':{width}}       rel   largest     limit        ms       load        run  against"
        for row in self.rows:
            wrong = "" if row.passed else f"  WRONG {', '.join(row.problems)}"
            yield (
                f"  {row.graph:{width}} {row.rel:9.2e} {row.largest:9.2e} {row.limit:9.0e} {row.milliseconds:9.2f}"
                f" {in_words(row.load_bytes):>10} {in_words(row.run_bytes):>10}  {row.reference}{wrong}"
            )
        for search in self.searches:
            yield from search.lines()

    def to_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "directory": str(self.directory),
            "rows": [row.to_json() for row in self.rows],
            "searches": [search.to_json() for search in self.searches],
        }


def measure(directory: Path, graphs: Collection[str], trust: bool, progress: Progress) -> ParityReport:
    """Run the engines `graphs` of a set beside their references; none named is all of them.

    Raises UsageError for a graph that the set has not, EngineSetError and BackendError for a set that cannot be used.
    """
    manifest = admit(directory, trust)
    chosen = replace(manifest, engines=tuple(_entries(manifest, graphs)))
    return ParityReport(directory, tuple(measured_rows(directory, chosen, progress)))


def search(report: ParityReport, graphs: Collection[str], weights: Path | None, progress: Progress) -> ParityReport:
    """With the first bad tensor of `graphs`; none named is all that have not passed. Needs torch and the `weights`.

    Raises UsageError for engines that are no ONNX files, and what making the graphs raises.
    """
    manifest = admit(report.directory, trust=True)  # it was admitted before
    names = graphs or [row.graph for row in report.rows if not row.passed]
    progress.stage("bisect", len(names))
    found = []
    for entry in _entries(manifest, names) if names else ():
        found.append(_search(report.directory, entry, declared_model(report.directory, manifest), weights))
        progress.advance("bisect", graph=entry.spec.name)
    return replace(report, searches=tuple(found))


def _entries(manifest: Manifest, graphs: Collection[str]) -> list[EngineEntry]:
    entries = {entry.spec.name: entry for entry in manifest.engines}
    for name in graphs:
        if name not in entries:
            raise UsageError(f"graph {name!r} is not in the engine set; it has {', '.join(entries)}")
    return [entries[name] for name in graphs or entries]


def _search(directory: Path, entry: EngineEntry, model: Model, weights: Path | None) -> "Bisection":
    from stt2v.bench.bisect import bisect
    from stt2v.export.recipes import recipe_for

    name = entry.spec.name
    if entry.backend != "onnxruntime":
        raise UsageError(
            f"engine {name!r} is of {entry.backend}, whose inner tensors cannot be seen; bisect a set that is built "
            "with --backend onnxruntime and the same precision"
        )
    reference = read_reference(directory, name)
    if reference is None:
        raise UsageError(f"engine {name!r} has no reference; run `stt2v build-engines` again")
    graphs = recipe_for(model, weights or _weights(model)).graphs
    with TemporaryDirectory(prefix="stt2v-bisect-") as folder:
        exact = _exact(graphs[name], Path(folder))
        limit = limit_for(entry.precision, "fp32")
        return bisect(name, directory / entry.file, exact, reference.inputs(entry.spec), limit)


def _weights(model: Model) -> Path | None:
    """The folder that a set of `model` is built from, where it has one."""
    folder = weight_folder(model.name)
    return folder if folder.is_dir() and not model.toy and not model.warning else None


def _exact(make: "GraphMaker", folder: Path) -> Path:
    """The graph in float32 as an ONNX file in `folder`."""
    from stt2v.export.capture import program_from_graph
    from stt2v.export.to_onnx import onnx_from_program, save_onnx
    from stt2v.export.weight_file import WeightFile

    path = folder / "exact.onnx"
    with WeightFile(folder / "exact.bin") as weights:
        save_onnx(onnx_from_program(program_from_graph(make())), path, weights)
    return path
