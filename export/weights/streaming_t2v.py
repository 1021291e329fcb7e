"""StreamingT2V's published checkpoint into our modules.

One file holds everything. Its prefixes mislead: `unet.` is the control net, `base_model.` the main UNet.
`load_checkpoint` loads it whole, each other `load_*` the part below one of its prefixes, of any width and depth.
"""

import re
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import CLIPTextModel, CLIPVisionModelWithProjection

from stt2v.engine.errors import ExportError
from stt2v.export.models.modelscope_unet import ModelScopeUNet, UNetSpec, cross_attentions
from stt2v.export.models.streaming_t2v import ControlNet, ImageTokens, MemorySpec, StreamingUNet
from stt2v.export.weights.base import Rule, State, rename, take
from stt2v.export.weights.modelscope import HEAD_WIDTH, NORM_GROUPS, load_text_encoder, load_vae, unet_spec
from stt2v.export.weights.streaming_svd import load_into, load_tower
from stt2v.export.weights.structure import count, shapes_of

CAM_HEAD_WIDTH = 64

UNET = "base_model."
CONTROL = "unet."
RESAMPLER = "resampler."
TOWER = "image_encoder.model."
TEXT_ENCODER = "text_encoder."
VAE = "vae."

CAM_RULES: tuple[Rule, ...] = (
    (r"^cross_attention_merger_down_blocks\.(\d+)\.temporal_transformer\.", r"skip_cams.\1."),
    (r"^cross_attention_merger_mid_block\.temporal_transformer\.", "middle_cam."),
)
CONTROL_RULES: tuple[Rule, ...] = ((r"^controlnet_cond_embedding\.", "frame_encoder."),)


@dataclass(frozen=True)
class Checkpoint:
    """The networks of the published checkpoint."""

    unet: StreamingUNet
    control: ControlNet
    image_tokens: ImageTokens
    tower: CLIPVisionModelWithProjection
    text_encoder: CLIPTextModel
    vae: AutoencoderKL


def load_checkpoint(state: State) -> Checkpoint:
    """The whole published checkpoint.

    Raises: ExportError when a key is missing or over, or a shape differs.
    """
    unknown = sorted(key for key in state if not key.startswith((UNET, CONTROL, RESAMPLER, TOWER, TEXT_ENCODER, VAE)))
    if unknown:
        raise ExportError(
            f"checkpoint has {len(unknown)} keys of no network of StreamingT2V ({unknown[0]}, ...); "
            "use streaming_t2v.ckpt of PAIR/StreamingT2V"
        )
    return Checkpoint(
        load_unet(take(state, UNET)),
        load_control_net(take(state, CONTROL)),
        load_image_tokens(take(state, RESAMPLER)),
        load_tower(take(state, TOWER)),
        load_text_encoder(take(state, TEXT_ENCODER)),
        load_vae(take(state, VAE), NORM_GROUPS),
    )


def load_unet(state: State, head_width: int = HEAD_WIDTH, cam_head_width: int = CAM_HEAD_WIDTH) -> StreamingUNet:
    """The main UNet with CAM and APM, from the keys below `UNET`."""
    spec = unet_spec(state, head_width)
    ours = rename(state, (*CAM_RULES, *_mix_rules(spec)))
    shapes = shapes_of(ours)
    text_tokens, tokens, _ = shapes["apm.0.conv.weight"]
    cams = tuple(shapes[f"skip_cams.{index}.norm.weight"][0] for index in range(count(shapes, "skip_cams.{}.")))
    memory = MemorySpec(cams, cam_head_width, text_tokens, tokens - text_tokens)
    return load_into(lambda spec: StreamingUNet(spec, memory), spec, ours)


def _mix_rules(spec: UNetSpec) -> list[Rule]:
    """What APM adds to each cross-attention has a place of its own here."""
    with torch.device("meta"):
        attentions = cross_attentions(ModelScopeUNet(spec))
    return [
        (rf"^{re.escape(path)}\.(conv|conv_ln|alpha)(?=\.|$)", rf"apm.{index}.\1")
        for index, path in enumerate(attentions)
    ]


def load_control_net(state: State, head_width: int = HEAD_WIDTH) -> ControlNet:
    """The control net, from the keys below `CONTROL`."""
    ours = rename(state, CONTROL_RULES)
    shapes = shapes_of(ours)
    strided = range(1, count(shapes, "frame_encoder.blocks.{}."), 2)
    first = shapes["frame_encoder.conv_in.weight"][0]
    widths = (first, *(shapes[f"frame_encoder.blocks.{index}.weight"][0] for index in strided))
    return load_into(lambda spec: ControlNet(spec, widths), unet_spec(ours, head_width), ours)


def load_image_tokens(state: State) -> ImageTokens:
    """APM's token generator, from the keys below `RESAMPLER`."""
    inner, width = state["context_embedding.0.weight"].shape
    tokens = len(state["context_embedding.2.weight"]) // width
    return load_into(lambda inner: ImageTokens(width, inner, tokens), inner, state)
