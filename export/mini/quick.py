"""Attention over frames by a kernel that fits so few, for training on a GPU."""

from typing import Any, TypeVar

from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from torch import Tensor, nn

from stt2v.export.models.cam import CAM
from stt2v.kernels.attention_gradient import attend

Module = TypeVar("Module", bound=nn.Module)


def quickened(module: Module) -> Module:
    """The module with every attention over frames computed here."""
    for part in module.modules():
        if isinstance(part, CAM | TransformerTemporalModel):
            for attention in part.modules():
                if isinstance(attention, Attention):
                    attention.set_processor(FrameAttention())  # type: ignore[arg-type]  # its list of types is closed
    return module


class FrameAttention:
    """A processor of diffusers. hidden_states: [N, L, C]; encoder_hidden_states: [N, S, C] -> [N, L, C]."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        parts = (attn.to_q(hidden_states), attn.to_k(source), attn.to_v(source))
        heads = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in parts)
        result: Tensor = attn.to_out[0](attend(*heads).transpose(1, 2).flatten(2))
        return result
