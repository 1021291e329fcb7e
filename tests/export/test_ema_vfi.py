"""EMA-VFI: keys of the checkpoint, sizes, precision and the exported graph."""

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from stt2v.engine.errors import ExportError
from stt2v.export.capture import program_from_graph
from stt2v.export.families.ema_vfi import PUBLISHED, TOY, random_weights, toy_graphs
from stt2v.export.models.ema_vfi import EmaVfiConfig, MiddleFrame
from stt2v.export.models.ema_vfi_attention import Windows
from stt2v.export.to_onnx import onnx_from_program
from stt2v.export.weights.ema_vfi import ema_vfi_config, ema_vfi_state, load_ema_vfi, original_shapes

ROOT = Path(__file__).resolve().parents[2]
KEYS = Path(os.environ.get("STT2V_GOLDEN", ROOT.parent / "shared" / "golden")) / "vfi" / "checkpoint_keys.tsv"


def pair(height: int, width: int, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return {name: torch.rand(1, 3, height, width, generator=random) for name in ("image0", "image1")}


@pytest.mark.skipif(not KEYS.is_file(), reason=f"no reference data at {KEYS}")
def test_every_published_key_is_mapped() -> None:
    rows = [line.split("\t") for line in KEYS.read_text().splitlines()]
    shapes = {key: [int(n) for n in shape.split("x")] for key, shape, *_ in rows if key.startswith("module.")}
    checkpoint = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    network = load_ema_vfi(checkpoint)
    assert ema_vfi_config(ema_vfi_state(checkpoint)) == PUBLISHED
    assert sum(p.numel() for p in network.parameters()) == 65_662_359
    assert {f"module.{key}": list(shape) for key, shape in original_shapes(PUBLISHED).items()} == shapes


def test_wrapper_and_caches_are_dropped() -> None:
    weights = dict(random_weights(TOY, 0))
    wrapped = {f"module.{key}": tensor for key, tensor in weights.items()}
    caches = {
        "module.feature_bone.block4.1.attn_mask": torch.zeros(1),
        "module.feature_bone.block4.1.HW": torch.ones(1),
    }
    assert ema_vfi_state({**wrapped, **caches, "epoch": torch.ones(1)}).keys() == ema_vfi_state(weights).keys()


def test_narrow_networks_need_heads() -> None:
    with pytest.raises(ExportError, match="name the number of heads"):
        load_ema_vfi(random_weights(EmaVfiConfig(width=2), 0))
    with pytest.raises(ExportError, match="use EMA-VFI's checkpoint"):
        load_ema_vfi({"conv.weight": torch.ones(1)})


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("size", [(7, 14), (9, 15), (1, 2)])
def test_windows_are_undone(size: tuple[int, int], shift: int) -> None:
    windows = Windows(*size, 7, shift)
    x = torch.randn(4, *size, 3)
    assert torch.equal(windows.merge(windows.split(x)), x)
    assert (windows.mask() is None) == (size == (7, 14) and shift == 0)


def test_masks_follow_the_shape_not_the_area() -> None:
    """14x7 after 7x14 tokens: a mask kept by area would be the wrong one."""
    network = load_ema_vfi(random_weights(TOY, 0), TOY.heads)
    wide = pair(32, 64)
    tall = {name: image.mT.contiguous() for name, image in wide.items()}
    expected = network(**tall)
    network(**wide)
    assert torch.equal(network(**tall), expected)


def test_any_size_and_pairs_do_not_mix() -> None:
    middle = MiddleFrame(load_ema_vfi(random_weights(TOY, 0), TOY.heads))
    first, second = pair(40, 50), pair(40, 50, seed=1)
    both = middle(**{name: torch.cat([first[name], second[name]]) for name in first})
    assert both.shape == (2, 3, 40, 50)
    torch.testing.assert_close(both[1:], middle(**second))


def test_turned_pictures_give_the_turned_frame() -> None:
    middle, images = MiddleFrame(load_ema_vfi(random_weights(TOY, 0), TOY.heads)), pair(32, 64)
    turned = middle(**{name: image.flip(2, 3) for name, image in images.items()})
    torch.testing.assert_close(turned.flip(2, 3), middle(**images), rtol=1e-4, atol=1e-5)


def test_half_precision_stays_close() -> None:
    images = pair(64, 128)
    full, half = (
        MiddleFrame(load_ema_vfi(random_weights(TOY, 0), TOY.heads).to(dtype))(**images)
        for dtype in (torch.float32, torch.float16)
    )
    assert half.dtype == torch.float32
    assert (half - full).norm() / full.norm() < 5e-3


def test_exported_graph_equals_the_module(tmp_path: Path) -> None:
    graph = toy_graphs(width=120, height=64).makers()["interpolate_120x64"]()
    images = pair(64, 120)
    model = onnx_from_program(program_from_graph(graph))
    ir.save(model, tmp_path / "interpolate.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "interpolate.onnx", providers=["CPUExecutionProvider"])
    (middle,) = session.run(["middle"], {name: image.numpy() for name, image in images.items()})
    expected = graph.module(**images).numpy()
    assert np.linalg.norm(middle - expected) <= 1e-4 * np.linalg.norm(expected)
    operators = {node.op_type for node in model.graph}
    assert "Attention" in operators
    assert "Softmax" not in operators
