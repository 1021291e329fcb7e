"""StreamingSVD's published checkpoint into our modules.

The checkpoint holds everything in one file under the names of latent diffusion's code. `load_checkpoint` loads it
whole, each other `load_*` the part below one of its prefixes, of any width and depth. Tensors are taken as they are.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from stt2v.engine.errors import ExportError
from stt2v.export.models.cam import CAM
from stt2v.export.models.control_branch import ControlBranch
from stt2v.export.models.temporal_vae import LatentEncoder, TemporalDecoder
from stt2v.export.models.video_unet import VideoUNet
from stt2v.export.weights import structure
from stt2v.export.weights.base import Rule, State, load_strict, rename, take
from stt2v.export.weights.open_clip import LAYER_RULES, split_projections

Module = TypeVar("Module", bound=nn.Module)
Spec = TypeVar("Spec")

HEAD_WIDTH = 64  # of attention in the UNet, control branch and CAMs
TOWER_HEAD_WIDTH = 80

UNET = "model.diffusion_model."
CONTROL = "controlnet."
TOWER = "conditioner.embedders.0.open_clip.model."
IMAGE_ENCODER = "conditioner.embedders.3.encoder."
DECODER = "first_stage_model.decoder."

UNUSED = ("first_stage_model.encoder.",)  # a second copy of the image encoder
UNUSED_IN_IMAGE_ENCODER = ("decoder.", "post_quant_conv.")
UNUSED_IN_TOWER = (  # what was left of the text tower
    "positional_embedding",
    "text_projection",
    "logit_scale",
    "token_embedding.",
    "ln_final.",
)

RESIDUAL_RULES: tuple[Rule, ...] = (
    (r"\.time_stack\.(in_layers|emb_layers|out_layers)\.", r".temporal_res_block.\1."),
    (r"(?<!temporal_res_block)\.(in_layers|emb_layers|out_layers|skip_connection)\.", r".spatial_res_block.\1."),
    (r"in_layers\.0\.", "norm1."),
    (r"in_layers\.2\.", "conv1."),
    (r"emb_layers\.1\.", "time_emb_proj."),
    (r"out_layers\.0\.", "norm2."),
    (r"out_layers\.3\.", "conv2."),
    (r"skip_connection\.", "conv_shortcut."),
)
UNET_RULES: tuple[Rule, ...] = (
    *RESIDUAL_RULES,
    (r"\.time_stack\.(\d+)\.", r".temporal_transformer_blocks.\1."),
    (r"\.time_pos_embed\.0\.", ".time_pos_embed.linear_1."),
    (r"\.time_pos_embed\.2\.", ".time_pos_embed.linear_2."),
    (r"^time_embed\.0\.", "time_embedding.linear_1."),
    (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^label_emb\.0\.0\.", "label_embedding.linear_1."),
    (r"^label_emb\.0\.2\.", "label_embedding.linear_2."),
    (r"\.op\.", ".conv."),
    (r"^out\.0\.", "norm_out."),
    (r"^out\.2\.", "conv_out."),
    (r"^cross_attention_merger_input_blocks\.(\d+)\.temporal_transformer\.", r"skip_cams.\1."),
    (r"^cross_attention_merger_mid_block\.temporal_transformer\.", "middle_cam."),
    (r"^controlnet_cond_embedding\.", "frame_encoder."),
)
ATTENTION_RULES: tuple[Rule, ...] = (
    (r"attn_1\.norm\.", "attn_1.group_norm."),
    (r"attn_1\.([qkv])\.", r"attn_1.to_\1."),
    (r"attn_1\.proj_out\.", "attn_1.to_out.0."),
)
ENCODER_RULES: tuple[Rule, ...] = (
    *ATTENTION_RULES,
    (r"^(?!encoder\.|quant_conv\.)", "encoder."),
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)
DECODER_RULES: tuple[Rule, ...] = (
    *ATTENTION_RULES,
    (r"^conv_out\.time_mix_conv\.", "time_mix_conv."),
    (r"(block[_.]\d+)\.mix_factor$", r"\1.time_mixer.mix_factor"),
    (r"(block[_.]\d+)\.(norm\d|conv\d)\.", r"\1.spatial_res_block.\2."),
    (r"(block[_.]\d+)\.nin_shortcut\.", r"\1.skip_connection."),
    *RESIDUAL_RULES,
    (r"^mid\.block_1\.", "middle_in."),
    (r"^mid\.attn_1\.", "middle_attention."),
    (r"^mid\.block_2\.", "middle_out."),
)
TOWER_RULES: tuple[Rule, ...] = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    *LAYER_RULES,
)


@dataclass(frozen=True)
class Checkpoint:
    """The networks of the published checkpoint."""

    unet: VideoUNet
    control: ControlBranch
    tower: CLIPVisionModelWithProjection
    image_encoder: LatentEncoder
    decoder: TemporalDecoder


def load_checkpoint(state: State, head_width: int = HEAD_WIDTH, tower_head_width: int = TOWER_HEAD_WIDTH) -> Checkpoint:
    """The whole published checkpoint.

    Raises: ExportError when a key is missing or over, or a shape differs.
    """
    known = (UNET, CONTROL, TOWER, IMAGE_ENCODER, DECODER, *UNUSED)
    unknown = sorted(key for key in state if not key.startswith(known))
    if unknown:
        raise ExportError(
            f"checkpoint has {len(unknown)} keys of no network of StreamingSVD ({unknown[0]}, ...); "
            "use model.safetensors of PAIR/StreamingSVD"
        )
    return Checkpoint(
        load_unet(take(state, UNET), head_width, head_width),
        load_control_branch(take(state, CONTROL), head_width),
        load_tower(take(state, TOWER), tower_head_width),
        load_image_encoder(take(state, IMAGE_ENCODER)),
        load_decoder(take(state, DECODER)),
    )


def load_unet(state: State, head_width: int = HEAD_WIDTH, cam_head_width: int = HEAD_WIDTH) -> VideoUNet:
    """The UNet with its CAMs, from the keys below `UNET`."""
    ours = flat_convolutions(rename(state, UNET_RULES))
    return load_into(VideoUNet, structure.unet_spec(ours, head_width, cam_head_width), ours)


def load_control_branch(state: State, head_width: int = HEAD_WIDTH) -> ControlBranch:
    """The control branch, from the keys below `CONTROL`."""
    ours = flat_convolutions(rename(state, UNET_RULES))
    return load_into(ControlBranch, structure.control_spec(ours, head_width), ours)


def load_cam(state: State, head_width: int = HEAD_WIDTH) -> CAM:
    """One feature merger by itself."""
    ours = rename(state, ((r"^temporal_transformer\.", ""),))
    return load_into(lambda channels: CAM(channels, head_width), len(ours["norm.weight"]), ours)


def load_image_encoder(state: State) -> LatentEncoder:
    """The image encoder, from the keys below `IMAGE_ENCODER` or those of an encoder alone (then without quant_conv)."""
    ours = flat_attention(rename(state, ENCODER_RULES, UNUSED_IN_IMAGE_ENCODER))
    quant_conv = "quant_conv.weight" in ours
    return load_into(lambda spec: LatentEncoder(spec, quant_conv), structure.encoder_spec(ours), ours)


def load_decoder(state: State) -> TemporalDecoder:
    """The temporal decoder, from the keys below `DECODER`."""
    ours = flat_attention(flat_convolutions(rename(state, DECODER_RULES)))
    return load_into(TemporalDecoder, structure.decoder_spec(ours), ours)


def load_tower(state: State, head_width: int = TOWER_HEAD_WIDTH) -> CLIPVisionModelWithProjection:
    """The image tower of open_clip, from the keys below `TOWER`."""
    ours = split_projections(rename(state, TOWER_RULES, UNUSED_IN_TOWER))
    if "visual.proj" in ours:
        ours["visual_projection.weight"] = ours.pop("visual.proj").T
    return restore_positions(load_into(CLIPVisionModelWithProjection, structure.tower_config(ours, head_width), ours))


def restore_positions(tower: CLIPVisionModelWithProjection) -> CLIPVisionModelWithProjection:
    """Give a tower that was made without memory its counter of patches, which no checkpoint holds."""
    embeddings = tower.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    return tower


def load_into(make: Callable[[Spec], Module], spec: Spec, state: State) -> Module:
    """The module of that structure, made without memory of its own, with the tensors of `state`."""
    with torch.device("meta"):
        module = make(spec)
    return load_strict(module, state)


def flat_convolutions(state: State) -> dict[str, Tensor]:
    """Kernels (3, 1, 1) over frames become (3, 1) over frames and pixels."""
    return {key: tensor.squeeze(-1) if tensor.ndim == 5 else tensor for key, tensor in state.items()}


def flat_attention(state: State) -> dict[str, Tensor]:
    """1x1 convolutions of the autoencoder's attention become linear layers."""
    linear = re.compile(r"\.(to_[qkv]|to_out\.0)\.weight$")
    return {key: tensor.flatten(1) if linear.search(key) else tensor for key, tensor in state.items()}
