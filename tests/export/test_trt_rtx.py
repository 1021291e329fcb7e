"""TensorRT-RTX engines, built for three generations of cards at once on a machine that has none of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toys
from torch import Tensor, nn

from stt2v.engine.errors import ExportError, UsageError
from stt2v.engine.manifest import EngineEntry
from stt2v.engine.models import find_model
from stt2v.engine.reference import read_reference
from stt2v.engine.trust import admit
from stt2v.export import to_trt_rtx
from stt2v.export.build import build_engine_set
from stt2v.export.build_model import model_build
from stt2v.export.compilers import compiler_of, find_compiler
from stt2v.export.families import i2vgen_xl
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.recipes import recipe_for
from stt2v.export.step import Half, Network
from stt2v.export.to_trt import TrtCompiler
from stt2v.export.to_trt_rtx import TrtCompile

pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")

TARGET = "sm_86+sm_89+sm_120"
NARROW = i2vgen_xl.TOY  # heads 8 wide, and 4 in the encoder of image latents: nothing to fuse
WIDE = replace(
    NARROW,
    unet={**NARROW.unet, "attention_head_dim": 16, "block_out_channels": (32, 64)},
    text_encoder={**NARROW.text_encoder, "hidden_size": 32},
    image_encoder={**NARROW.image_encoder, "hidden_size": 32},
)
QUICK = ("first_step", "vae_decode_8", "interpolate_128x64")
ATTENTIONS = {
    "image_encoder": (2, 2),
    "vae_encode": (1, 0),
    "first_conditions": (0, 0),
    "conditions": (0, 0),
    "first_step": (8, 8),
    "first_half": (8, 8),
    "step": (17, 17),
    "half": (17, 17),
    "update": (0, 0),
    "vae_decode_8": (1, 1),
    "vae_decode_1": (1, 0),
    "enhance_text_encoder": (2, 0),
    "enhance_image_encoder": (2, 0),
    "enhance_vae_encode": (1, 0),
    "enhance_vae_decode": (1, 0),
    "enhance_8_conditions": (1, 0),
    "enhance_8_step": (18, 0),
    "enhance_8_half": (18, 0),
    "enhance_8_update": (0, 0),
    "interpolate_128x64": (8, 8),
    "interpolate_256x128": (8, 8),
}
"""Graphs of tiny: attentions, and how many of them are fused. The toy enhancer's heads are too narrow for that."""


@pytest.fixture(scope="module")
def tiny() -> Mapping[str, GraphMaker]:
    return recipe_for(find_model("tiny"), None).graphs


def build(directory: Path, name: str, maker: GraphMaker, precision: str = "fp16", target: str = TARGET) -> EngineEntry:
    """The engine of one graph, in the set `directory / "set"`."""
    built = build_engine_set(
        toys.MODEL, {name: maker}, "tensorrt-rtx", precision, target, directory / "set", None, False
    )
    assert admit(built.directory).files.keys() == {f"{name}.engine"}
    (entry,) = built.manifest.engines
    return entry


def fused(entry: EngineEntry) -> tuple[int, int]:
    return entry.notes["attentions"], entry.notes["fused_attentions"]


def test_graphs_of_tiny(tiny: Mapping[str, GraphMaker]) -> None:
    assert set(tiny) == set(ATTENTIONS)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in ATTENTIONS])
def test_graph_of_tiny(tiny: Mapping[str, GraphMaker], tmp_path: Path, name: str) -> None:
    entry = build(tmp_path, name, tiny[name])
    assert fused(entry) == ATTENTIONS[name]
    if not name.endswith("update"):  # which has neither weights nor, being one kernel, anything in between
        assert entry.weight_bytes > 0
        assert entry.activation_bytes > 0
    assert entry.notes["builder_bytes"] > 1 << 20
    assert {tensor.dtype for tensor in entry.spec.outputs} == {"float32"}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("enhance_4_half", 18),
        pytest.param("enhance_4_step", 18, marks=pytest.mark.slow),
        pytest.param("enhance_text_encoder", 2, marks=pytest.mark.slow),
        pytest.param("enhance_image_encoder", 2, marks=pytest.mark.slow),
    ],
)
def test_enhancer_with_heads_of_16(tmp_path: Path, name: str, count: int) -> None:
    weights = i2vgen_xl.random_weights(WIDE, 0)
    graphs = i2vgen_xl.EnhancerGraphs(WIDE, weights, width=128, height=80, windows=(4,))
    assert fused(build(tmp_path, name, graphs.makers()[name])) == (count, count)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "enhance_38_step", "vae_decode_8"])
def test_published_size(tmp_path: Path, name: str) -> None:
    entry = build(tmp_path, name, recipe_for(find_model("streaming-svd"), None).graphs[name], target="sm_89")
    attentions, done = fused(entry)
    assert done == attentions - (name == "vae_decode_8")  # its one head is 512 wide
    assert entry.notes["builder_bytes"] > entry.weight_bytes


def test_set_has_what_the_machine_with_the_card_checks_it_by(tmp_path: Path) -> None:
    built = build_engine_set(toys.MODEL, {"half": toys.half}, "tensorrt-rtx", "fp16", "sm_89", tmp_path / "set")
    assert built.parity == ()
    assert admit(built.directory).files.keys() == {"half.engine", "half.reference.safetensors"}
    reference = read_reference(built.directory, "half")
    assert reference is not None
    assert reference.made_in == "fp32"


def test_single_precision_fuses_nothing_and_is_no_error(tmp_path: Path) -> None:
    entry = build(tmp_path, "half", toys.half, "fp32", "sm_89")
    assert fused(entry) == (1, 0)


class Attention(nn.Module):
    """q, k, v: [1, 4, 16, D], four heads."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Determinant(nn.Module):
    """TensorRT-RTX has no such operation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.det(x)


def test_lost_fusion_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_trt_rtx, "FUSED_HEAD_WIDTHS", range(1, 257))
    graph = Graph("narrow", Attention(), {name: torch.zeros(1, 4, 16, 8) for name in "qkv"}, ("y",))
    with pytest.raises(ExportError, match="graph 'narrow': TensorRT-RTX fused 0 of 1 attentions"):
        build(tmp_path, "narrow", lambda: graph, target="sm_89")
    assert list(tmp_path.iterdir()) == []


def test_failure_tells_the_end_of_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    graph = Graph("det", Determinant(), {"x": torch.eye(3)[None]}, ("y",))
    with pytest.raises(ExportError, match=r"graph 'det': tensorrt_rtx failed for sm_89; its log ends: .*Det") as error:
        build(tmp_path, "det", lambda: graph, "fp32", "sm_89")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_killed_builder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho one; echo two\nkill -9 $$\n")
    python.chmod(0o700)
    monkeypatch.setattr(to_trt_rtx.sys, "executable", str(python))
    with pytest.raises(
        ExportError, match=r"ended by signal 9, most likely for lack of memory.* for sm_86.*ends: one \| two"
    ):
        build(tmp_path, "update", toys.update)
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("sm_90", "target 'sm_90' cannot be built for tensorrt-rtx; choose one of sm_80, sm_86"),
        ("sm_89+cpu", "target 'cpu' cannot be built"),
        ("sm_89+sm_89", "target 'sm_89[+]sm_89' names one twice"),
    ],
)
def test_targets_that_do_not_fit(target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_compiler("tensorrt-rtx", target, "fp16")


@pytest.mark.parametrize(
    ("says", "message"),
    [("", "this machine has no NVIDIA card: give --target"), ("9.0\n", "this machine has a card of sm_90: give")],
)
def test_target_is_asked_for_without_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, message: str
) -> None:
    card(tmp_path, monkeypatch, says)
    with pytest.raises(UsageError, match=message):
        model_build("tiny", "tensorrt-rtx", out=tmp_path / "set")


def test_target_of_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(tmp_path, monkeypatch, "12.0\n8.9\n")
    assert to_trt_rtx.compiler().own_target() == "sm_120"


def card(directory: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """Put an nvidia-smi in the way that says so."""
    query = directory / "nvidia-smi"
    query.write_text(f"#!/bin/sh\nprintf '{says}'\n")
    query.chmod(0o700)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def test_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_trt_rtx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"pip install 'stt2v\[tensorrt-rtx\]'"):
        to_trt_rtx.compiler()


def test_tensorrt_is_built_where_its_card_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card(tmp_path, monkeypatch, "9.0\n")
    compiler = TrtCompiler()
    assert compiler.own_target() == "sm_90"
    with compiler.opened(tmp_path, "sm_90") as compile_program:
        assert compile_program == TrtCompile("tensorrt", tmp_path, "sm_90")
    with pytest.raises(UsageError, match="target is sm_89, the card here is sm_90"), compiler.opened(tmp_path, "sm_89"):
        pass


def test_missing_tensorrt_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_trt_rtx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"'tensorrt' needs tensorrt, .*pip install 'stt2v\[tensorrt\]'"):
        compiler_of("tensorrt")


class Wide(Network):
    """x: [B, F, 256, h, w] -> the same: layers that are large enough for FP8, and an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, 256)
        self.space = nn.Conv2d(256, 256, 3, padding=1)
        self.frames = nn.Conv3d(256, 512, (3, 1, 1), padding=(1, 0, 0))
        self.heads, self.down = nn.Linear(512, 3 * 1024), nn.Linear(1024, 256)  # the second is not large enough

    def forward(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        frames = x[0] + self.space(nn.functional.silu(self.norm(x[0])))
        tokens = self.frames(frames.transpose(0, 1)[None])[0].permute(1, 2, 3, 0).flatten(1, 2)  # [F, h * w, 512]
        q, k, v = self.heads(tokens).unflatten(2, (48, 64)).transpose(1, 2).chunk(3, 1)
        tokens = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.down(tokens).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize("target", ["sm_89", "sm_120"])
def test_fp8(tmp_path: Path, target: str) -> None:
    inputs = {"x": torch.zeros(8, 256, 8, 8), "coefficients": torch.zeros(8)}
    graph = Graph("half", Half(toys.with_weights(Wide())), inputs, ("y",))
    entry = build(tmp_path, "half", lambda: graph, "fp8", target)
    assert entry.kept == ()
    assert fused(entry) == (1, 1)
    assert entry.notes["fp8_layers"] == entry.notes["fp8_kernels"] == 3


def test_fp8_needs_a_card_that_has_it() -> None:
    with pytest.raises(UsageError, match="target 'sm_86' has no FP8; choose one of sm_89, sm_120, sm_121, or another"):
        find_compiler("tensorrt-rtx", "sm_86+sm_89", "fp8")
