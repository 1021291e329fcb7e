"""Stock SVD-XT's UNet (diffusers' folder `unet`) into our module. Its other networks are those of StreamingSVD."""

from stt2v.export.models.video_unet import VideoUNet
from stt2v.export.weights import structure
from stt2v.export.weights.base import Rule, State, rename
from stt2v.export.weights.streaming_svd import HEAD_WIDTH, flat_convolutions, load_into

TOP_RULES: tuple[Rule, ...] = (
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "norm_out."),
    (r"^add_embedding\.", "label_embedding."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)


def load_first_unet(state: State, head_width: int = HEAD_WIDTH) -> VideoUNet:
    """The UNet of the first chunk, from the keys of diffusers' `UNetSpatioTemporalConditionModel`.

    Raises: ExportError when a key is missing or over, or a shape differs.
    """
    ours = flat_convolutions(rename(state, (*TOP_RULES, *_level_rules(state))))
    return load_into(VideoUNet, structure.unet_spec(ours, head_width).stock(), ours)


def _level_rules(state: State) -> list[Rule]:
    """Levels of blocks become one row of blocks; a change of resolution is a block of its own on the way down."""
    shapes = structure.shapes_of(state)
    blocks = structure.count(shapes, "down_blocks.0.resnets.{}.") + 1
    rules: list[Rule] = []
    for level in range(structure.count(shapes, "down_blocks.{}.")):
        first = level * blocks
        last = f"output_blocks.{first + blocks - 1}"
        upsampler = 2 if f"up_blocks.{level}.attentions.0.norm.weight" in state else 1
        rules.append((rf"^down_blocks\.{level}\.downsamplers\.0\.", f"input_blocks.{first + blocks}.0."))
        rules.append((rf"^up_blocks\.{level}\.upsamplers\.0\.", f"{last}.{upsampler}."))
        for block in range(blocks):
            for layer, kind in enumerate(("resnets", "attentions")):
                place = f"{first + block}.{layer}."
                down = f"input_blocks.{first + block + 1}.{layer}."
                rules.append((rf"^down_blocks\.{level}\.{kind}\.{block}\.", down))
                rules.append((rf"^up_blocks\.{level}\.{kind}\.{block}\.", f"output_blocks.{place}"))
    return rules
