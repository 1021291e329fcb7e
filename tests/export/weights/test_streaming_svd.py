"""StreamingSVD's converters: the published keys, wrong keys, and the stock UNet against diffusers' own."""

import os
from pathlib import Path

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor

from stt2v.engine.errors import ExportError
from stt2v.export.families.streaming_svd import Structure
from stt2v.export.models.streaming_unet import FirstNetwork, embed_vector
from stt2v.export.models.unet_spec import svd_spec
from stt2v.export.random_weights import random_state
from stt2v.export.weights.streaming_svd import load_checkpoint, load_image_encoder
from stt2v.export.weights.structure import shapes_of
from stt2v.export.weights.svd_xt import load_first_unet

ROOT = Path(__file__).resolve().parents[3]
KEYS = Path(os.environ.get("STT2V_GOLDEN", ROOT.parent / "shared" / "golden")) / "streaming_svd" / "checkpoint_keys.tsv"

needs_keys = pytest.mark.skipif(not KEYS.is_file(), reason=f"no reference data at {KEYS}")


def published() -> dict[str, Tensor]:
    rows = [line.split("\t") for line in KEYS.read_text().splitlines()[1:]]
    shapes = {key: [] if shape == "scalar" else [int(n) for n in shape.split("x")] for key, shape, *_ in rows}
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@needs_keys
def test_every_published_key_is_mapped() -> None:
    networks = load_checkpoint(published())
    structure = Structure()
    assert networks.unet.spec == structure.unet
    assert networks.tower.config.to_dict() == structure.tower().to_dict()
    counted = {name: sum(p.numel() for p in part.parameters()) for name, part in vars(networks).items()}
    assert counted == {
        "unet": 1_524_623_082 + 68_867_200,
        "control": 669_455_377 + 3_589_984,
        "tower": 632_076_800,
        "image_encoder": 34_163_664,
        "decoder": 63_579_183,
    }


@needs_keys
@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "controlnet.", "first_stage_model.decoder.", ""])
def test_keys_over_or_missing_are_refused(prefix: str) -> None:
    with pytest.raises(ExportError, match=r"extra|no network"):
        load_checkpoint({**published(), f"{prefix}extra.weight": torch.ones(1)})


@needs_keys
def test_a_missing_key_is_named() -> None:
    state = published()
    del state["controlnet.middle_block.2.out_layers.3.bias"]
    with pytest.raises(ExportError, match=r"missing 1 keys \(middle_block\.2\.spatial_res_block\.conv2\.bias\)"):
        load_checkpoint(state)


def test_another_model_is_refused() -> None:
    with pytest.raises(ExportError, match="published checkpoint"):
        load_image_encoder({"text_model.weight": torch.ones(1)})


@torch.inference_mode()
def test_stock_unet_equals_diffusers() -> None:
    """Two levels with attention and two without it, deep transformers, another width on every level."""
    theirs = UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64, 96),
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2 + ("DownBlockSpatioTemporal",),
        up_block_types=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 2,
        num_attention_heads=(2, 4, 6),
        layers_per_block=2,
        transformer_layers_per_block=2,
        cross_attention_dim=24,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
    ).eval()
    state = random_state(shapes_of(theirs), seed=7)
    theirs.load_state_dict(state)
    unet = load_first_unet(state, head_width=16)
    random = torch.Generator().manual_seed(0)
    x, image = torch.randn(2, 3, 4, 8, 8, generator=random), torch.randn(2, 4, 8, 8, generator=random)
    context, vector = torch.randn(2, 24, generator=random), torch.tensor([[6.0, 127.0, 0.02]])
    timestep = torch.tensor(0.7)
    constants = unet.project_context(context), unet.embed_label(embed_vector(vector, 24))
    ours = FirstNetwork(unet)(x, timestep, image, *constants)
    noisy = torch.cat([x, image[:, None].expand(-1, 3, -1, -1, -1)], dim=2)
    expected = theirs(noisy, timestep, context[:, None], vector.expand(2, -1), return_dict=False)[0]
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()


def test_published_structure_of_the_stock_unet() -> None:
    with torch.device("meta"):
        theirs = UNetSpatioTemporalConditionModel(num_attention_heads=(5, 10, 20, 20))
    unet = load_first_unet(theirs.state_dict())
    assert unet.spec == svd_spec().stock()
