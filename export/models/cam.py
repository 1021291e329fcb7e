"""The conditional attention module (CAM) of StreamingT2V (Henschel et al. 2024, section 4.1)."""

from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from stt2v.export.models.video_blocks import GROUPS, fold, unfold


class CAM(nn.Module):
    """Short-term memory: every pixel of the new frames attends to the same pixel of the last chunk's frames."""

    def __init__(self, channels: int, head_width: int = 64) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.attention = Attention(
            channels, cross_attention_dim=channels, heads=channels // head_width, dim_head=head_width
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, control: Tensor, frames: int) -> Tensor:
        """x: [(B F), C, h, w]; control: [(B Fc), C, h, w], raw features -> like x."""
        control_frames = len(control) * frames // len(x)
        tokens = self.proj_in(_pixels(self.norm(fold(x, frames))))
        tokens = self.proj_out(self.attention(tokens, _pixels(fold(control, control_frames))))
        out = tokens.unflatten(0, (-1, x.shape[2] * x.shape[3])).permute(0, 3, 2, 1)
        return x + unfold(out, x.shape[2], x.shape[3])


def _pixels(x: Tensor) -> Tensor:
    """[B, C, F, P] -> [(B P), F, C]."""
    return x.permute(0, 3, 2, 1).flatten(0, 1)
