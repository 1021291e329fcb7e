"""ModelScope's UNet beside diffusers' own forward, which is numerically the reference's."""

import numpy as np
import pytest
import torch
from diffusers import UNet3DConditionModel

from stt2v.export.models.modelscope_unet import ModelScopeUNet, UNetSpec
from stt2v.export.models.streaming_t2v_steps import TextConstants
from stt2v.export.models.vid2vid import DOWN_PADDING, Vid2VidUNet
from stt2v.export.random_weights import random_state
from stt2v.export.weights.modelscope import load_unet, unet_spec
from stt2v.export.weights.structure import shapes_of

SPEC = UNetSpec((32, 64, 32), (True, True, False), layers=2, context_width=12, head_width=8)


@pytest.fixture(scope="module")
def theirs():
    network = UNet3DConditionModel(
        down_block_types=("CrossAttnDownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "CrossAttnUpBlock3D"),
        block_out_channels=SPEC.widths,
        cross_attention_dim=SPEC.context_width,
        attention_head_dim=SPEC.head_width,
    )
    network.load_state_dict(random_state(shapes_of(network), seed=3))
    return network.eval().requires_grad_(False)


def test_structure_is_read_from_the_keys(theirs):
    assert unet_spec(theirs.state_dict(), SPEC.head_width) == SPEC


@pytest.mark.parametrize("size", [(8, 4), (7, 10)], ids=["divisible", "odd"])
def test_equals_diffusers(theirs, size):
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(2, 4, 3, *size, generator=generator)
    text = torch.randn(2, 77, SPEC.context_width, generator=generator)
    timestep = torch.tensor([981, 40])
    ours = load_unet(theirs.state_dict(), SPEC.head_width)
    with torch.no_grad():
        expected = theirs(video, timestep, text).sample
        context = TextConstants(ours)(text)
        actual = ours(video.transpose(1, 2).flatten(0, 1), 3, timestep, context).unflatten(0, (2, 3)).transpose(1, 2)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_skip_channels_are_those_of_the_encoder():
    with torch.device("meta"):
        unet = ModelScopeUNet(SPEC)
        inputs = unet.step_inputs(2, 1, torch.zeros(1), torch.zeros(1, 77, sum(unet.site_widths())))
        skips, _ = unet.encode(torch.zeros(2, 4, 8, 8), inputs)
    assert tuple(skip.shape[1] for skip in skips) == SPEC.skip_channels


def test_vid2vid_heights_come_back():
    """The published 90 rows go through 46, 24 and 13 and back."""
    spec = UNetSpec((32, 32, 32, 32), (False, False, False, False), layers=1, head_width=8, down_padding=DOWN_PADDING)
    with torch.device("meta"):
        unet = Vid2VidUNet(spec)
        inputs = unet.step_inputs(1, 1, torch.zeros(1), torch.zeros(1, 77, sum(unet.site_widths())))
        skips, middle = unet.encode(torch.zeros(1, 4, 90, 160), inputs)
        assert middle.shape[2:] == (13, 20)
        assert sorted({skip.shape[2] for skip in skips}) == [13, 24, 46, 90]
        assert unet.decode(middle, skips, inputs).shape == (1, 4, 90, 160)
