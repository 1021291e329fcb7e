"""What engines take of a card, by the shapes in their graphs: known before anything is compiled."""

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from stt2v.engine.backends.inductor_card import OUTSIDE, inside
from stt2v.engine.errors import UsageError
from stt2v.engine.manifest import EngineEntry
from stt2v.engine.models.model import Model
from stt2v.engine.progress import Progress
from stt2v.engine.size import in_words
from stt2v.engine.stages.denoise import fused_steps
from stt2v.engine.stages.enhance import enhancer_windows
from stt2v.export.capture import exported_from_graph
from stt2v.export.engine_builder import Graphs
from stt2v.export.flat_maps import flat_maps
from stt2v.export.flat_program import flatten
from stt2v.export.graph import Graph
from stt2v.export.precision import in_precision
from stt2v.export.to_inductor import activation_bytes

PLACE = "meta"  # where tensors have shapes only


def footprint(graph: Graph, precision: str) -> int:
    """Bytes of a card in which the engine of `graph` should run: weights, inputs and activations.

    Activations as `activation_bytes` has them: a compiler that fuses needs less, kernels with scratch need more (on an
    H100 0.6 to 0.9 times as much, EMA-VFI 3.7 times). Weights in FP8 count as what they are narrowed from.
    """
    with torch.device(PLACE):
        exported = exported_from_graph(in_precision(_weightless(graph), precision))
        program = flat_maps(flatten(exported))
    tensors = (*program.weights.values(), *graph.inputs.values())
    return activation_bytes(program) + sum(tensor.nbytes for tensor in tensors)


def _weightless(graph: Graph) -> Graph:
    """The graph with tensors that have no contents; the graph itself is left alone."""
    module, tensors = graph.module, (*graph.module.parameters(), *graph.module.buffers())
    empty = {id(tensor): _empty(tensor) for tensor in tensors}
    inputs = {name: tensor.to(PLACE) for name, tensor in graph.inputs.items()}
    return replace(graph, module=copy.deepcopy(module, empty), inputs=inputs)


def _empty(tensor: Tensor) -> Tensor:
    there = tensor.detach().to(PLACE)
    return nn.Parameter(there, requires_grad=False) if isinstance(tensor, nn.Parameter) else there


@dataclass(frozen=True)
class Within:
    """The engines of a set that is to run within `vram` bytes of a card, those of `model` in `precision`."""

    vram: int
    model: Model
    precision: str

    def chosen(self, graphs: Graphs, progress: Progress) -> Graphs:
        """`graphs` but for the fused steps that should not fit, whose halves give the same.

        Raises UsageError, with what should fit, when another one should not.
        """
        progress.stage("footprint", len(graphs))
        sizes = {}
        for name, make in graphs.items():
            sizes[name] = footprint(make(), self.precision)
            progress.advance("footprint", graph=name)
        large = [name for name, size in sizes.items() if size > inside(self.vram)]
        spared = [name for name in fused_steps(sizes) if name in large]
        self._check([name for name in large if name not in spared], sizes)
        if spared:
            words = ", ".join(f"{name} (about {in_words(sizes[name])})" for name in spared)
            progress.note(f"leaves out {words}: their halves, one after the other, give the same in less memory")
        return {name: make for name, make in graphs.items() if name not in spared}

    def _check(self, large: Collection[str], sizes: Mapping[str, int]) -> None:
        if not large:
            return
        name = max(large, key=sizes.__getitem__)
        fitting = " or ".join([*self._that_fit(large, sizes), "more memory"])
        raise UsageError(
            f"engine {name!r} should take about {in_words(sizes[name] + OUTSIDE)} of the card by its graph, --vram is"
            f" {in_words(self.vram)}; what fits: {fitting}"
        )

    def _that_fit(self, large: Collection[str], sizes: Mapping[str, int]) -> Iterator[str]:
        """What could be asked for instead, the nearest first."""
        if self.precision == "fp32" and all(sizes[name] // 2 <= inside(self.vram) for name in large):
            yield "--precision fp16"
        if how := self.model.enhancing:
            windows = {name: int(found[1]) for name in large if (found := re.match(r"enhance_(\d+)_", name))}
            shorter = [window for window in enhancer_windows(sizes) if window < min(windows.values(), default=0)]
            if shorter and {*windows} == {*large}:
                yield f"--window {shorter[-1]}"
            own = f"interpolate_{self.model.width}x{self.model.height}"
            if all(name.startswith(("enhance", "interpolate")) and name != own for name in large):
                yield f"--enhancer none (in place of {how.name})"


def exceeding(engines: Collection[EngineEntry], vram: int) -> Iterator[str]:
    """What to know of engines that were measured once they were built, and take more than was expected."""
    for entry in engines:
        size = entry.weight_bytes + entry.activation_bytes + sum(tensor.nbytes for tensor in entry.spec.inputs)
        if size > inside(vram):
            taken, name = in_words(size + OUTSIDE), entry.spec.name
            yield f"engine {name!r} takes {taken} of the card, runs in {in_words(vram)} do without it or are refused"
