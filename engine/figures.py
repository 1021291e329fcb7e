"""What one call of an engine takes: measured here by the set's certificate, or else what a table says."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from types import MappingProxyType

from stt2v.engine.build_costs import costs
from stt2v.engine.manifest import Manifest
from stt2v.engine.models.i2vgen_xl import I2VGEN_XL
from stt2v.engine.models.model import Model
from stt2v.engine.models.streaming_svd import STREAMING_SVD
from stt2v.engine.parallel.pace import BANDWIDTH, side_by_side
from stt2v.engine.parity import read_parity
from stt2v.engine.stages.denoise import fused_name

TABLE = MappingProxyType(
    {
        "first_step": (451.0, None),
        "step": (1058.0, 6.65e9),
        "vae_decode_8": (290.0, 6.05e9),
        "enhance_16_step": (800.0, None),
        "enhance_38_step": (1807.0, 17.54e9),
    }
)
"""Engines of StreamingSVD and I2VGen-XL at their published sizes in half precision: milliseconds of a call by PyTorch
on an H100; bytes of activations as TensorRT-RTX plans them, see ARCHITECTURE.md."""


@dataclass(frozen=True)
class Figures:
    """Milliseconds a call, bytes while the engine is loaded, bytes more while it runs; None where not known.

    `batch`: how many of what is counted go into one call. `moved`: bytes that go in and come out, 0 where not known.
    `measured` here, or by a table.
    """

    milliseconds: float | None = None
    load: float | None = None
    run: float | None = None
    batch: int = 1
    moved: int = 0
    measured: bool = False

    @property
    def complete(self) -> bool:
        """Whether nothing is unknown."""
        return None not in (self.milliseconds, self.load, self.run)

    def seconds(self, count: int, together: int = 1, gpus: int = 1) -> float | None:
        """Of so many calls, or what is counted in their stead, `together` of which may be done at once by the cards."""
        if self.milliseconds is None:
            return None
        wire = self.moved / BANDWIDTH
        calls = ceil(together / self.batch)
        return count / together * side_by_side(calls, gpus, self.milliseconds / 1000, wire)


def measured_figures(model: Model, directory: Path, manifest: Manifest) -> dict[str, Figures]:
    """Of the engines of a set by its certificate; bytes by its manifest where that has none."""
    rows = {row.graph: row for row in read_parity(directory)}
    made = {}
    for entry in manifest.engines:
        name, row = entry.spec.name, rows.get(entry.spec.name)
        batch = entry.spec.inputs[0].shape[0] if name.startswith("interpolate") else 1
        moved = sum(tensor.nbytes for tensor in (*entry.spec.inputs, *entry.spec.outputs))
        if row and row.milliseconds:
            made[name] = Figures(row.milliseconds, row.load_bytes, row.run_bytes, batch, moved, measured=True)
        else:
            milliseconds, _ = _tabled(model, name)
            made[name] = Figures(milliseconds, entry.weight_bytes, entry.activation_bytes, batch, moved)
    return made


def tabled_figures(model: Model, graphs: Iterable[str]) -> dict[str, Figures]:
    """Of engines that are yet to be built, at their published sizes in half precision."""
    made = {}
    for cost in costs(model, "", "fp16", graphs):
        milliseconds, activations = _tabled(model, cost.graph)
        made[cost.graph] = Figures(milliseconds, cost.weight_bytes, activations)
    return made


def _tabled(model: Model, graph: str) -> tuple[float | None, float | None]:
    """Milliseconds and bytes by the table, for what it is of."""
    if graph.startswith("enhance"):
        fits = model.enhancing is not None and replace(model.enhancing, steps=I2VGEN_XL.steps) == I2VGEN_XL
    else:
        own = STREAMING_SVD
        fits = (model.family, model.width, model.height) == (own.family, own.width, own.height)
    if not fits:
        return None, None
    if graph.endswith("half") and fused_name(graph) in TABLE:
        return TABLE[fused_name(graph)][0] / 2, None  # or a little more: bench/RESULTS.md
    return TABLE.get(graph, (None, None))
