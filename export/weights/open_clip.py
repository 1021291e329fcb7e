"""Keys of open_clip's towers, image or text, into those of transformers."""

from torch import Tensor

from stt2v.export.weights.base import Rule, State

LAYER_RULES: tuple[Rule, ...] = (
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
    (r"\.attn\.in_proj_", ".self_attn.in_proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def split_projections(state: State) -> dict[str, Tensor]:
    """Query, key and value layers, which open_clip keeps in one tensor, apart."""
    split: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if ".in_proj." in key:
            for name, part in zip("qkv", tensor.chunk(3), strict=True):
                split[key.replace("in_proj", f"{name}_proj")] = part
        else:
            split[key] = tensor
    return split
