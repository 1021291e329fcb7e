"""Compiles one graph by Inductor and ends, so that several are compiled at once and none keeps what it took.

    python -m stt2v.export.inductor_builder FOLDER

The folder holds the graph (`JOB`); it gets the artifact, the compiler's cache (which the environment leads there), and
what the graph takes to run (`REPORT`). On a card the graph is run, because our own kernels are compiled when they are
first called, and nobody else of the same build uses the card meanwhile.
"""

import json
import pickle
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, fx
from torch._inductor.codegen import triton as triton_code
from torch._inductor.codegen.triton import TritonKernel
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import ExternKernel
from torch._inductor.runtime.hints import ReductionHint
from torch._subclasses import FakeTensorMode
from torch.fx._graph_pickler import GraphPickler, Options
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._ordered_set import OrderedSet

from stt2v.engine.backends.inductor import ARTIFACT, register_kernels, steady_convolutions, without_trials
from stt2v.engine.machine import peak_memory
from stt2v.export.card import card_to_itself
from stt2v.export.child import end_with_parent
from stt2v.export.quiet import quiet

JOB, REPORT = "job.pickle", "report.json"
ONLY_THE_GRAPH = Options(ops_filter=None, node_metadata_key_filter=lambda key: False)
HALF = (torch.float16, torch.bfloat16)
LONGEST_NAME = 100  # letters that say what a kernel is made of
LONGEST_ROW = 2048  # values that a block holds in registers


@dataclass(frozen=True)
class Layout:
    """A tensor without its contents, on "cpu" or "cuda"."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: str

    @classmethod
    def of(cls, tensor: Tensor, device: str) -> "Layout":
        """That of a tensor, on another device."""
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.stride(), device)

    @property
    def nbytes(self) -> int:
        """From its first element to its last."""
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (reach + 1) * getattr(torch, self.dtype).itemsize if all(self.shape) else 0

    def over(self, memory: torch.UntypedStorage) -> Tensor:
        """A tensor of this layout at the beginning of `memory`."""
        empty = torch.empty(0, dtype=getattr(torch, self.dtype), device=self.device)
        return empty.set_(memory, 0, self.shape, self.strides)


def stand_ins(layouts: Sequence[Layout]) -> list[Tensor]:
    """Tensors of these layouts on one device, all in the same memory of zeros: what is in them is of no matter."""
    device = layouts[0].device
    memory = torch.zeros(max(layout.nbytes for layout in layouts), dtype=torch.uint8, device=device).untyped_storage()
    return [layout.over(memory) for layout in layouts]


@dataclass(frozen=True)
class Job:
    """What to compile: a graph and the layouts of its weights and inputs. `kernels`: ours are in it."""

    module: fx.GraphModule
    arguments: tuple[Layout, ...]
    kernels: bool

    def save(self, folder: Path) -> None:
        """Write it into `folder`."""
        with (folder / JOB).open("wb") as file:
            pickle.dump((self.arguments, self.kernels), file)
            # Not the module: that is traced anew when it is read, and what it computes of nothing becomes a buffer.
            file.write(GraphPickler.dumps(self.module, ONLY_THE_GRAPH))

    @classmethod
    def load(cls, folder: Path) -> "Job":
        """What was saved in `folder`; our own operators have to be known before a graph that calls them is read."""
        with (folder / JOB).open("rb") as file:
            arguments, kernels = pickle.load(file)
            if kernels:
                register_kernels()
            module: Any = GraphPickler.loads(file.read(), FakeTensorMode(shape_env=ShapeEnv()))
        return cls(module, arguments, kernels)


def compile_graph(module: fx.GraphModule, arguments: Sequence[Tensor]) -> Any:
    """The artifact of a graph for arguments like these: callable with such, and saveable."""
    with (
        torch.no_grad(),
        without_trials(),
        maps_apart_from_tokens(),
        sums_written_once(),
        rows_read_once(),
        names_that_are_found(),
        quiet("torch._inductor", "torch._functorch"),
    ):
        return torch._inductor.standalone_compile(module, list(arguments), dynamic_shapes="from_example_inputs")


@contextmanager
def maps_apart_from_tokens() -> Iterator[None]:
    """On a GPU Inductor lays channels-last only what was so when the program was traced.

    By itself it does that to every tensor of four axes that any convolution comes after. Tokens, [B, P, F, C], would
    have their pixels innermost, and each kernel that meets them would read across.
    """
    preferring, deciding = GraphLowering.find_nodes_prefer_channels_last, GraphLowering.decide_layout_opt

    def traced(graph: GraphLowering) -> OrderedSet[torch.fx.Node]:
        return OrderedSet(node for node in preferring(graph) if _lies_channels_last(node.meta.get("val")))

    def decided(module: fx.GraphModule, *, is_inference: bool) -> bool:
        """Convolutions of ours, which Inductor does not count, want maps so too."""
        values = (node.meta.get("val") for node in module.graph.nodes)
        on_gpu = any(isinstance(value, Tensor) and value.device.type == "cuda" for value in values)
        return on_gpu or bool(deciding(module, is_inference=is_inference))

    with (
        patch.object(GraphLowering, "find_nodes_prefer_channels_last", traced),
        patch.object(GraphLowering, "decide_layout_opt", staticmethod(decided)),
    ):
        yield


@contextmanager
def sums_written_once() -> Iterator[None]:
    """On a GPU a sum in half precision that several operations read is written to memory; turned ones as they ask for.

    A map is written channels-last if it was so when the program was traced.

    By itself Inductor has each of them add anew, so that along a residual stream every norm reads all that was added so
    far (the step of StreamingSVD: 433 ms that way, 416 this way, on an H100). And a copy of what is turned lies as most
    of what it is made of, so that a norm whose result has to lie otherwise takes two kernels.
    """
    lowering = GraphLowering.run_node

    def run_node(graph: GraphLowering, node: fx.Node) -> object:
        result: Any = lowering(graph, node)
        value: Any = node.meta.get("val")
        if node.target == torch.ops.aten.add.Tensor and len(node.users) > 1 and _is_half_on_gpu(value):
            if _lies_channels_last(value):
                return ExternKernel.require_channels_last(result)
            result.realize()
        if node.target == torch.ops.aten.clone.default and _is_half_on_gpu(value) and _is_turned_sum(node.args[0]):
            return ExternKernel.require_contiguous(result)
        return result

    with patch.object(GraphLowering, "run_node", run_node):
        yield


@contextmanager
def rows_read_once() -> Iterator[None]:
    """On a GPU what is reduced along rows, as norms are, is read once and held in registers.

    By itself Inductor reads such rows again for every reduction, and for the result, where they are longer than 1024 or
    any tensor beside them lies in another order, such as means of rows that it keeps apart by frames for alignment.
    """
    default = TritonKernel.should_use_persistent_reduction

    def holds(kernel: TritonKernel) -> bool:
        if default(kernel):
            return True
        if not kernel.inside_reduction or kernel.cooperative_reduction:
            return False
        along_rows = kernel.features.get_reduction_hint(kernel.tiling_scores) == ReductionHint.INNER
        return along_rows and bool(kernel.features.reduction_numel <= LONGEST_ROW)

    unpadded = torch._inductor.config.patch(comprehensive_padding=False)
    with unpadded, patch.object(TritonKernel, "should_use_persistent_reduction", holds):
        yield


@contextmanager
def names_that_are_found() -> Iterator[None]:
    """Kernels on a GPU have names short enough to be loaded as they were compiled.

    Triton cuts the names of its files to 150 letters, and Inductor looks for them uncut: what has a longer one would be
    compiled anew in each process (0.3 to 0.5 s each, 14 in a step of StreamingSVD), and launched by a slower way.
    """
    whole: Any = vars(triton_code)["get_fused_kernel_name"]

    def cut(*what: Any) -> str:
        return str(whole(*what))[:LONGEST_NAME]

    with patch.object(triton_code, "get_fused_kernel_name", cut):
        yield


def _is_half_on_gpu(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda" and value.dtype in HALF


def _is_turned_sum(node: Any) -> bool:
    """Whether `node` is a sum of [B, F, P, C] with F and P exchanged."""
    turned: bool = node.target == torch.ops.aten.permute.default and node.args[1] == [0, 2, 1, 3]
    return turned and bool(node.args[0].target == torch.ops.aten.add.Tensor)


def _lies_channels_last(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.ndim != 4:
        return False
    return value.device.type != "cuda" or value.is_contiguous(memory_format=torch.channels_last)


def build(folder: Path) -> None:
    """Do the job in `folder`."""
    job = Job.load(folder)
    arguments = stand_ins(job.arguments)
    artifact = compile_graph(job.module, arguments)
    report = {}
    if any(layout.device == "cuda" for layout in job.arguments):
        with card_to_itself(folder.parent):
            report["activation_bytes"] = _activation_bytes(artifact, arguments)
    artifact.save(path=str(folder / ARTIFACT))
    report["builder_bytes"] = peak_memory()
    (folder / REPORT).write_text(json.dumps(report))


def _activation_bytes(artifact: Any, arguments: Sequence[Tensor]) -> int:
    """The most memory of the card that a run takes beside weights and inputs, outputs and workspaces included.

    The first run is left out: it tries several kernels.
    """
    with torch.no_grad(), steady_convolutions():
        artifact(*arguments)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        artifact(*arguments)
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    return peak


if __name__ == "__main__":
    end_with_parent()
    build(Path(sys.argv[1]))
