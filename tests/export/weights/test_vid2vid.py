"""MS-Vid2Vid-XL's files: every published key has its place."""

import os
from pathlib import Path

import pytest
import torch

from stt2v.export.models.modelscope_unet import UNetSpec
from stt2v.export.models.vid2vid import DOWN_PADDING
from stt2v.export.weights.base import take
from stt2v.export.weights.vid2vid import load_autoencoder, load_text_tower, load_unet

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(os.environ.get("STT2V_GOLDEN", ROOT.parent / "shared" / "golden"))
KEYS = GOLDEN / "vid2vid" / "checkpoint_keys.tsv"

pytestmark = pytest.mark.skipif(not KEYS.is_file(), reason=f"no reference data at {KEYS}")


@pytest.fixture(scope="module")
def checkpoint():
    rows = (line.split("\t") for line in KEYS.read_text().splitlines()[1:])
    sizes = {
        f"{part}/{key}": [] if shape == "scalar" else list(map(int, shape.split("x"))) for part, key, shape in rows
    }
    return {key: torch.empty(size, device="meta") for key, size in sizes.items()}


def size(shape):
    return [] if shape == "scalar" else [int(n) for n in shape.split("x")]


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_key_of_the_unet_is_mapped(checkpoint):
    unet = load_unet(take(checkpoint, "unet/"))
    assert parameters(unet) == 1_411_233_860
    assert unet.spec == UNetSpec(down_padding=DOWN_PADDING)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_every_key_of_the_autoencoder_is_mapped(checkpoint, prefix):
    state = {prefix + key: tensor for key, tensor in take(checkpoint, "autoencoder/").items()}
    assert parameters(load_autoencoder(state)) == 83_653_863


def test_every_key_of_the_text_tower_is_mapped(checkpoint):
    tower = load_text_tower(take(checkpoint, "clip_text/"))
    assert parameters(tower) == 354_032_641 - 1024 * 1024 - 1  # without text_projection and logit_scale
