"""TensorRT-RTX engines of StreamingT2V and vid2vid, built for three generations of cards at once."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from torch import Tensor, nn

from stt2v.engine.manifest import EngineEntry
from stt2v.engine.models.streaming_t2v import STREAMING_T2V
from stt2v.engine.trust import admit
from stt2v.export.build import build_engine_set
from stt2v.export.families import streaming_t2v, vid2vid
from stt2v.export.graph import GraphMaker
from stt2v.export.precision import in_precision
from stt2v.export.recipes import recipe_for
from stt2v.export.reference import seeded_inputs

TARGET = "sm_86+sm_89+sm_120"
LAYERS = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.GroupNorm | nn.LayerNorm
QUICK = ("step", "enhance_4_half")
ATTENTIONS = {
    "text_encoder": (2, 2),
    "anchor": (2, 2),
    "first_conditions": (0, 0),
    "conditions": (0, 0),
    "first_step": (18, 18),
    "first_half": (18, 18),
    "first_update": (0, 0),
    "step": (33, 33),
    "half": (33, 33),
    "update": (0, 0),
    "vae_decode_4": (1, 0),
    "enhance_text_encoder": (2, 2),
    "enhance_vae_encode": (1, 0),
    "enhance_vae_decode": (1, 0),
    "enhance_conditions": (0, 0),
    "enhance_4_step": (18, 18),
    "enhance_4_half": (18, 18),
    "enhance_4_update": (0, 0),
}
"""Attentions, and how many of them are fused. The autoencoder's one head is no case for a kernel at any width."""


@pytest.fixture(scope="module")
def makers() -> Mapping[str, GraphMaker]:
    """The toys with heads of 16; their own are 8 wide, which leaves nothing to fuse."""
    base, enhancer = streaming_t2v.TOY, vid2vid.TOY
    texts, tower = ({**config, "hidden_size": 32} for config in (base.text_encoder, base.tower))
    tower["projection_dim"] = 32
    wide = replace(base, unet=replace(base.unet, context_width=32, head_width=16), text_encoder=texts, tower=tower)
    texts = {**enhancer.text_encoder, "hidden_size": 32}
    wide_enhancer = replace(enhancer, unet=replace(enhancer.unet, context_width=32, head_width=16), text_encoder=texts)
    config = streaming_t2v.Config(frames=4, conditional=2, height=32, width=48, decode_group=4)
    networks = vid2vid.random_networks(wide_enhancer, 0)
    graphs = streaming_t2v.graphs(streaming_t2v.random_networks(wide, 0), config)
    return graphs | vid2vid.Vid2VidGraphs(networks, 80, 48, (4,)).makers()


def build(directory: Path, name: str, maker: GraphMaker, target: str = TARGET) -> EngineEntry:
    """The engine of one graph, in half precision."""
    pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
    built = build_engine_set(toys.MODEL, {name: maker}, "tensorrt-rtx", "fp16", target, directory / "set", None, False)
    admit(built.directory)
    (entry,) = built.manifest.engines
    return entry


def fused(entry: EngineEntry) -> tuple[int, int]:
    return entry.notes["attentions"], entry.notes["fused_attentions"]


def test_graphs(makers: Mapping[str, GraphMaker]) -> None:
    assert set(makers) == set(ATTENTIONS)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in ATTENTIONS])
def test_graph_with_heads_of_16(makers: Mapping[str, GraphMaker], tmp_path: Path, name: str) -> None:
    entry = build(tmp_path, name, makers[name])
    assert fused(entry) == ATTENTIONS[name]
    if not name.endswith("update"):  # which has no weights, nor much in between
        assert entry.weight_bytes > 0
        assert entry.activation_bytes > 0
    assert {tensor.dtype for tensor in entry.spec.outputs} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "vae_decode_16", "enhance_24_step", "enhance_vae_decode"])
def test_published_size(tmp_path: Path, name: str) -> None:
    entry = build(tmp_path, name, recipe_for(STREAMING_T2V, None).graphs[name], "sm_89")
    attentions, done = fused(entry)
    assert done == attentions - ("vae_decode" in name)  # its one head is 512 wide
    assert entry.notes["builder_bytes"] > entry.weight_bytes


@pytest.mark.parametrize(
    "name", ["first_half", "half", "enhance_4_half", "first_step", "step", "enhance_4_step", "conditions"]
)
def test_half_precision_reaches_every_layer_and_is_close(makers: Mapping[str, GraphMaker], name: str) -> None:
    """The first output: the prediction, or x_next; x0 is guided, which multiplies what the predictions are off by."""
    graph = makers[name]()
    inputs: dict[str, Any] = {key: torch.from_numpy(np.asarray(value)) for key, value in seeded_inputs(graph).items()}
    halved = in_precision(graph, "fp16").module
    types: set[torch.dtype] = set()
    for module in halved.modules():
        if isinstance(module, LAYERS):
            module.register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    with torch.no_grad():
        rounded, exact = (first(module(**inputs)) for module in (halved, graph.module))
    assert types == {torch.float16}
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 5e-3


def first(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]
