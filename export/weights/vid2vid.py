"""MS-Vid2Vid-XL's published weights into our modules.

Three files: the UNet in the layout of latent diffusion's code, the autoencoder of Stable
Diffusion 2.1 (below `first_stage_model.`) and the text tower of open_clip.
"""

from dataclasses import replace

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import CLIPTextModel

from stt2v.export.models.vid2vid import DOWN_PADDING, Vid2VidUNet
from stt2v.export.weights.base import Rule, State, rename
from stt2v.export.weights.modelscope import HEAD_WIDTH, NORM_GROUPS, load_text_encoder, load_vae, unet_spec
from stt2v.export.weights.open_clip import LAYER_RULES, split_projections
from stt2v.export.weights.streaming_svd import flat_attention, load_into
from stt2v.export.weights.structure import Shapes, count, shapes_of

VAE = "first_stage_model."

UNUSED_IN_TEXT_ENCODER = ("text_projection", "logit_scale")

RESIDUAL_RULES: tuple[Rule, ...] = (
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".time_emb_proj."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".conv_shortcut."),
)
TOP_RULES: tuple[Rule, ...] = (
    (r"^time_embed\.0\.", "time_embedding.linear_1."),
    (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^input_blocks\.0\.0\.", "conv_in."),
    (r"^input_blocks\.0\.1\.", "transformer_in."),
    (r"^out\.0\.", "conv_norm_out."),
    (r"^out\.2\.", "conv_out."),
)
VAE_RULES: tuple[Rule, ...] = (
    (r"^first_stage_model\.", ""),
    (r"\.attn_1\.norm\.", ".attn_1.group_norm."),
    (r"\.attn_1\.([qkv])\.", r".attn_1.to_\1."),
    (r"\.attn_1\.proj_out\.", ".attn_1.to_out.0."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.block\.", ".resnets."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"\.down\.", ".down_blocks."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)
TEXT_RULES: tuple[Rule, ...] = (
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    *LAYER_RULES,
)


def load_unet(state: State, head_width: int = HEAD_WIDTH) -> Vid2VidUNet:
    """The UNet.

    Raises: ExportError when a key is missing or over, or a shape differs; so do the others.
    """
    renamed = rename(state, (*TOP_RULES, *_block_rules(shapes_of(state)), *RESIDUAL_RULES))
    # 1x1 convolutions over frames are linear layers here.
    ours = {key: tensor.squeeze(-1) if tensor.ndim == 3 else tensor for key, tensor in renamed.items()}
    return load_into(Vid2VidUNet, replace(unet_spec(ours, head_width), down_padding=DOWN_PADDING), ours)


def _block_rules(shapes: Shapes) -> list[Rule]:
    """One row of blocks becomes levels of blocks; a change of resolution belongs to the level before it."""
    blocks = count(shapes, "input_blocks.{}.")
    halving = [number for number in range(blocks) if f"input_blocks.{number}.op.weight" in shapes]
    per_level = halving[0] if halving else blocks
    rules = [*_layer_rules("middle_block", 0, "mid_block", 0)]
    rules += [*_layer_rules("middle_block", 3, "mid_block", 1)]
    for number in range(blocks - 1):
        level, index = divmod(number, per_level)
        name = rf"input_blocks\.{number + 1}"
        rules.append((rf"^{name}\.op\.", f"down_blocks.{level}.downsamplers.0.conv."))
        rules += _layer_rules(name, 0, f"down_blocks.{level}", index)
    for number in range(count(shapes, "output_blocks.{}.")):
        level, index = divmod(number, per_level)
        name = rf"output_blocks\.{number}"
        rules.append((rf"^{name}\.\d\.conv\.", f"up_blocks.{level}.upsamplers.0.conv."))
        rules += _layer_rules(name, 0, f"up_blocks.{level}", index)
    return rules


def _layer_rules(block: str, first: int, target: str, index: int) -> list[Rule]:
    """Entries `first` to `first` + 2 of a block: residual block with its temporal convolution, two transformers."""
    return [
        (rf"^{block}\.{first}\.temopral_conv\.", f"{target}.temp_convs.{index}."),  # spelt so
        (rf"^{block}\.{first}\.", f"{target}.resnets.{index}."),
        (rf"^{block}\.{first + 1}\.", f"{target}.attentions.{index}."),
        (rf"^{block}\.{first + 2}\.", f"{target}.temp_attentions.{index}."),
    ]


def load_autoencoder(state: State, norm_groups: int = NORM_GROUPS) -> AutoencoderKL:
    """The autoencoder, from its keys, with or without the prefix `VAE`."""
    levels = count(shapes_of(rename(state, VAE_RULES)), "decoder.up.{}.")
    up = [(rf"\.up\.{level}\.", f".up_blocks.{levels - 1 - level}.") for level in range(levels)]
    return load_vae(flat_attention(rename(state, (*VAE_RULES, *up))), norm_groups)


def load_text_tower(state: State, head_width: int = HEAD_WIDTH) -> CLIPTextModel:
    """The text tower of open_clip."""
    renamed = split_projections(rename(state, TEXT_RULES, UNUSED_IN_TEXT_ENCODER))
    return load_text_encoder(renamed, head_width)
