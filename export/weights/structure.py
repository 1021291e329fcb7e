"""The structure of StreamingSVD's networks, read from the keys and shapes of their weights.

Only head widths cannot be seen there. Keys are those of our modules.
"""

import itertools

from torch import nn
from transformers import CLIPVisionConfig

from stt2v.engine.errors import ExportError
from stt2v.export.models.control_branch import ControlSpec
from stt2v.export.models.temporal_vae import VaeSpec
from stt2v.export.models.unet_spec import BlockSpec, UNetSpec
from stt2v.export.weights.base import State

Shape = tuple[int, ...]


class Shapes(dict[str, Shape]):
    """Shapes by key; a key that a structure cannot do without is asked for by index."""

    def __missing__(self, key: str) -> Shape:
        raise ExportError(f"weights have no {key!r}; use the published checkpoint of this model")


def shapes_of(weights: State | nn.Module) -> Shapes:
    """The shape of every tensor."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    return Shapes({key: tuple(tensor.shape) for key, tensor in state.items()})


def count(shapes: Shapes, pattern: str) -> int:
    """How many of `pattern.format(0)`, `pattern.format(1)`, ... begin a key, counted until the first gap."""

    def present(index: int) -> bool:
        return any(key.startswith(pattern.format(index)) for key in shapes)

    return next(index for index in itertools.count() if not present(index))


def unet_spec(state: State, head_width: int, cam_head_width: int | None = None) -> UNetSpec:
    """The structure of a UNet, or of a control branch's encoder."""
    shapes = shapes_of(state)
    width, channels_in = shapes["input_blocks.0.0.weight"][:2]
    middle_depth = count(shapes, "middle_block.1.transformer_blocks.{}.")
    encoder = [_block(shapes, f"input_blocks.{i}.") for i in range(1, count(shapes, "input_blocks.{}."))]
    decoder = [_block(shapes, f"output_blocks.{i}.") for i in range(count(shapes, "output_blocks.{}."))]
    return UNetSpec(
        channels_in,
        width,
        label_width=shapes["label_embedding.linear_1.weight"][1],
        context_width=shapes["middle_block.1.transformer_blocks.0.attn2.to_v.weight"][1],
        head_width=head_width,
        encoder=tuple(encoder),
        middle_depth=middle_depth,
        decoder=tuple(decoder),
        channels_out=shapes["conv_out.weight"][0] if decoder else channels_in // 2,
        cam_head_width=cam_head_width,
    )


def _block(shapes: Shapes, prefix: str) -> BlockSpec:
    conv = shapes.get(f"{prefix}0.conv.weight")
    if conv:
        return BlockSpec(conv[1], conv[0], residual=False)
    channels_out, channels_in = shapes[f"{prefix}0.spatial_res_block.conv1.weight"][:2]
    upsample = any(f"{prefix}{layer}.conv.weight" in shapes for layer in (1, 2))
    return BlockSpec(channels_in, channels_out, count(shapes, prefix + "1.transformer_blocks.{}."), upsample=upsample)


def control_spec(state: State, head_width: int) -> ControlSpec:
    """The structure of a control branch."""
    shapes = shapes_of(state)
    first = shapes["frame_encoder.conv_in.weight"][0]
    strided = [
        shapes[f"frame_encoder.blocks.{i}.weight"][0] for i in range(1, count(shapes, "frame_encoder.blocks.{}."), 2)
    ]
    return ControlSpec(unet_spec(state, head_width), (first, *strided))


def encoder_spec(state: State) -> VaeSpec:
    """The structure of an image encoder."""
    shapes = shapes_of(state)
    levels = count(shapes, "encoder.down_blocks.{}.")
    widths = (shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels))
    blocks = count(shapes, "encoder.down_blocks.0.resnets.{}.")
    return VaeSpec(tuple(widths), blocks, shapes["encoder.conv_out.weight"][0] // 2)


def decoder_spec(state: State) -> VaeSpec:
    """The structure of a temporal decoder."""
    shapes = shapes_of(state)
    levels = count(shapes, "up.{}.")
    widths = (shapes[f"up.{i}.block.0.spatial_res_block.conv1.weight"][0] for i in range(levels))
    return VaeSpec(tuple(widths), count(shapes, "up.0.block.{}.") - 1, shapes["conv_in.weight"][1])


def tower_config(state: State, head_width: int) -> CLIPVisionConfig:
    """The configuration of a CLIP image tower."""
    shapes = shapes_of(state)
    width, _, patch, _ = shapes["vision_model.embeddings.patch_embedding.weight"]
    patches = shapes["vision_model.embeddings.position_embedding.weight"][0] - 1
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=shapes["vision_model.encoder.layers.0.mlp.fc1.weight"][0],
        projection_dim=shapes["visual_projection.weight"][0],
        num_hidden_layers=count(shapes, "vision_model.encoder.layers.{}."),
        num_attention_heads=width // head_width,
        image_size=round(patches**0.5) * patch,
        patch_size=patch,
        hidden_act="gelu",
    )
