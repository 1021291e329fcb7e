"""ModelScope's text-to-video repository (folders of diffusers' and transformers' layout) into our modules.

Structure is read from keys and shapes. Only head widths and the autoencoder's norm groups cannot be seen there.
"""

from typing import Any

from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from transformers import CLIPTextModel

from stt2v.export.models.modelscope_unet import ModelScopeUNet, UNetSpec
from stt2v.export.weights.base import State
from stt2v.export.weights.i2vgen_xl import load_component
from stt2v.export.weights.streaming_svd import load_into
from stt2v.export.weights.structure import count, shapes_of

HEAD_WIDTH = 64  # of all attention in the UNet and the text tower
NORM_GROUPS = 32
SCALING_FACTOR = 0.18215


def load_unet(state: State, head_width: int = HEAD_WIDTH) -> ModelScopeUNet:
    """The text-to-video UNet of the first chunk, from the keys of folder `unet`.

    Raises: ExportError when a key is missing or over, or a shape differs; so do the others.
    """
    return load_into(ModelScopeUNet, unet_spec(state, head_width), state)


def load_text_encoder(state: State, head_width: int = HEAD_WIDTH) -> CLIPTextModel:
    """The text tower, from the keys of folder `text_encoder`."""
    tower: CLIPTextModel = load_component("text_encoder", text_config(state, head_width), state)
    return tower


def load_vae(state: State, norm_groups: int = NORM_GROUPS) -> AutoencoderKL:
    """The autoencoder, from the keys of folder `vae`."""
    vae: AutoencoderKL = load_component("vae", vae_config(state, norm_groups), state)
    return vae


def unet_spec(state: State, head_width: int) -> UNetSpec:
    """The structure of a UNet, or of its encoder half, from the keys of diffusers' `UNet3DConditionModel`."""
    shapes = shapes_of(state)
    levels = range(count(shapes, "down_blocks.{}."))
    return UNetSpec(
        widths=tuple(shapes[f"down_blocks.{level}.resnets.0.conv1.weight"][0] for level in levels),
        attention=tuple(f"down_blocks.{level}.attentions.0.norm.weight" in shapes for level in levels),
        layers=count(shapes, "down_blocks.0.resnets.{}."),
        context_width=shapes["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"][1],
        head_width=head_width,
        entry_heads=shapes["transformer_in.proj_in.weight"][0] // head_width,
        channels_in=shapes["conv_in.weight"][1],
        channels_out=shapes.get("conv_out.weight", shapes["conv_in.weight"][1:])[0],
    )


def text_config(state: State, head_width: int) -> dict[str, Any]:
    """The configuration of a text tower."""
    shapes = shapes_of(state)
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count(shapes, "text_model.encoder.layers.{}."),
        "num_attention_heads": width // head_width,
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "hidden_act": "gelu",
    }


def vae_config(state: State, norm_groups: int) -> dict[str, Any]:
    """The configuration of an autoencoder."""
    shapes = shapes_of(state)
    levels = count(shapes, "encoder.down_blocks.{}.")
    return {
        "block_out_channels": tuple(
            shapes[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"][0] for level in range(levels)
        ),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": count(shapes, "encoder.down_blocks.0.resnets.{}."),
        "norm_num_groups": norm_groups,
        "latent_channels": shapes["post_quant_conv.weight"][0],
        "scaling_factor": SCALING_FACTOR,
    }
