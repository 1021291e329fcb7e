"""What goes to the process that compiles a graph."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch._inductor.codegen import triton as triton_code
from torch._inductor.codegen.triton import TritonKernel
from torch._inductor.graph import GraphLowering
from torch._inductor.ir import ExternKernel
from torch._inductor.runtime.hints import ReductionHint
from torch._subclasses.fake_tensor import FakeTensorMode

from stt2v.export.capture import program_from_graph
from stt2v.export.flat_program import flatten
from stt2v.export.graph import Graph
from stt2v.export.inductor_builder import (
    Job,
    Layout,
    names_that_are_found,
    rows_read_once,
    stand_ins,
    sums_written_once,
)
from stt2v.export.kernel_pass import put_kernels

READ = """
import sys
from pathlib import Path
from stt2v.export.inductor_builder import Job
print(Job.load(Path(sys.argv[1])).module.code)
"""


class Normed(nn.Module):
    """x: [B, 16, h, w] -> the same shape, through a norm that has a kernel of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.norm(x))


def test_a_graph_with_our_operators_is_read_by_a_process_that_knows_none_yet(tmp_path: Path) -> None:
    flat = flatten(program_from_graph(Graph("normed", Normed(), {"x": torch.zeros(2, 16, 8, 8)}, ("y",))).exported)
    assert put_kernels(flat.module)["norms"] == 1
    Job(flat.module, (), kernels=True).save(tmp_path)
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.ops.stt2v.group_factors" in done.stdout


class Counted(nn.Module):
    """x: [B, 4] -> the same shape, with what is computed of nothing added."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(4)


def test_a_graph_takes_what_it_took_before(tmp_path: Path) -> None:
    """Nothing that it computes of nothing has become an argument, as happens where a module is pickled."""
    flat = flatten(program_from_graph(Graph("counted", Counted(), {"x": torch.zeros(2, 4)}, ("y",))).exported)
    for node in flat.module.graph.nodes:
        node.meta["of no use to the builder"] = lambda: None  # what a capture leaves there is not always to be written
    Job(flat.module, (), kernels=False).save(tmp_path)
    read = Job.load(tmp_path).module
    assert [*map(str, read.graph.nodes)] == [*map(str, flat.module.graph.nodes)]
    assert not [*read.buffers()]


def test_stand_ins_lie_as_the_tensors_do_and_take_the_memory_of_the_largest() -> None:
    weight = torch.zeros(4, 3, 2, 2, dtype=torch.float16).contiguous(memory_format=torch.channels_last)
    tensors = [weight, torch.zeros(5, 7), torch.zeros(3, 0), torch.zeros((), dtype=torch.int64)]
    made = stand_ins([Layout.of(tensor, "cpu") for tensor in tensors])
    for one, other in zip(made, tensors, strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
        assert torch.equal(one, other)
    assert {tensor.untyped_storage().nbytes() for tensor in made} == {5 * 7 * 4}


@pytest.mark.parametrize(
    ("hint", "length", "held"),
    [("INNER", 1280, True), ("INNER", 4096, False), ("OUTER", 64, False)],
)
def test_short_rows_are_held_while_they_are_reduced(hint: str, length: int, held: bool) -> None:
    features = SimpleNamespace(
        get_reduction_hint=lambda scores=None: ReductionHint[hint if scores else "DEFAULT"],
        reduction_numel=sympy.Integer(length),
    )
    kernel = SimpleNamespace(
        inside_reduction=True, cooperative_reduction=False, features=features, tiling_scores={"r0_": 1}
    )
    with (
        patch.object(TritonKernel, "should_use_persistent_reduction", lambda _: False),
        rows_read_once(),
    ):
        assert TritonKernel.should_use_persistent_reduction(cast(TritonKernel, kernel)) == held


def test_turned_sums_are_laid_as_they_are_asked_for() -> None:
    graph, aten = torch.fx.Graph(), torch.ops.aten
    x = graph.placeholder("x")
    turned = [graph.call_function(aten.permute.default, (each, [0, 2, 1, 3])) for each in (_sum_of(x), x)]
    copies = [graph.call_function(aten.clone.default, (each,)) for each in turned]
    with FakeTensorMode():
        half = torch.empty(2, 4, 3, 8, dtype=torch.float16, device="cuda")
    for node in copies:
        node.meta["val"] = half
    with (
        patch.object(GraphLowering, "run_node", lambda _, node: node.name),
        patch.object(ExternKernel, "require_contiguous", lambda result: f"laid {result}"),
        sums_written_once(),
    ):
        results = [GraphLowering.run_node(cast(GraphLowering, None), node) for node in copies]
    assert results == ["laid clone_default", "clone_default_1"]


def test_sums_of_maps_are_laid_as_they_were_traced() -> None:
    graph, sizes = torch.fx.Graph(), (2, 8, 4, 4)
    nodes = [_sum_of(graph.placeholder(name)) for name in ("maps", "tokens")]
    with FakeTensorMode():
        for node, order in zip(nodes, (torch.channels_last, torch.contiguous_format), strict=True):
            node.meta["val"] = torch.empty(sizes, dtype=torch.float16, device="cuda", memory_format=order)
            _ = _sum_of(node), _sum_of(node)  # which read it
    realized: list[str] = []

    def lowered(_: GraphLowering, node: torch.fx.Node) -> object:
        return SimpleNamespace(name=node.name, realize=lambda: realized.append(node.name))

    with (
        patch.object(GraphLowering, "run_node", lowered),
        patch.object(ExternKernel, "require_channels_last", lambda result: f"laid {result.name}"),
        sums_written_once(),
    ):
        results = [GraphLowering.run_node(cast(GraphLowering, None), node) for node in nodes]
    assert (results[0], realized) == ("laid add_tensor", ["add_tensor_1"])


def test_kernels_have_names_that_triton_does_not_cut() -> None:
    with patch.object(triton_code, "get_fused_kernel_name", lambda nodes, how: "fused_" + "add_" * 99):
        with names_that_are_found():
            name = triton_code.get_fused_kernel_name([], "original_aten")
        assert len(triton_code.get_fused_kernel_name([], "original_aten")) > 150
    assert name.startswith("fused_add_")
    assert len(f"triton_red_{name}_12345") <= 150  # see triton/compiler/compiler.py


def _sum_of(x: torch.fx.Node) -> torch.fx.Node:
    return x.graph.call_function(torch.ops.aten.add.Tensor, (x, x))
