"""Attention between two frames that yields appearance and motion (EMA-VFI, Zhang et al. 2023, section 3.1)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6
MLP_RATIO = 4
MASKED = -100.0  # added to the logits of pairs that must not see each other


@dataclass(frozen=True)
class Windows:
    """A map of `height` x `width` cut into `size` x `size` windows, after centred zero padding and a cyclic shift."""

    height: int
    width: int
    size: int
    shift: int

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width after padding to the next multiples of the window."""
        return -(-self.height // self.size) * self.size, -(-self.width // self.size) * self.size

    @property
    def before(self) -> tuple[int, int]:
        """Rows and columns of padding in front of the content."""
        return (self.padded[0] - self.height) // 2, (self.padded[1] - self.width) // 2

    @property
    def grid(self) -> tuple[int, int]:
        """Number of windows down and across."""
        return self.padded[0] // self.size, self.padded[1] // self.size

    def split(self, x: Tensor) -> Tensor:
        """x: [N, h, w, C] -> [N * windows, size * size, C], the windows of one item after the other, row by row."""
        (rows, columns), (top, left), (down, across) = self.padded, self.before, self.grid
        bottom, right = rows - self.height - top, columns - self.width - left
        x = F.pad(x, (0, 0, left, right, top, bottom))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = x.reshape(len(x), down, self.size, across, self.size, -1).transpose(2, 3)
        return x.reshape(len(x) * down * across, self.size**2, -1)

    def merge(self, windows: Tensor) -> Tensor:
        """The inverse of `split`, without the padding."""
        (rows, columns), (top, left), (down, across) = self.padded, self.before, self.grid
        x = windows.reshape(-1, down, across, self.size, self.size, windows.shape[-1]).transpose(2, 3)
        x = x.reshape(-1, rows, columns, windows.shape[-1])
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, top : top + self.height, left : left + self.width]

    def mask(self) -> Tensor | None:
        """What is added to the logits: [windows, size * size, size * size], float32, 0 or -100; None if all 0.

        The padding is labelled where it was before the shift, although the shift has moved it: the reference does so
        and its weights are trained with it. NumPy makes the mask, so that a capture holds it as one constant.
        """
        (rows, columns), (top, left) = self.padded, self.before
        apart = self._apart(_zones(rows, top, top + self.height), _zones(columns, left, left + self.width))
        if self.shift:
            cuts = (-self.size, -self.shift)
            apart |= self._apart(_zones(rows, *cuts), _zones(columns, *cuts))
        return torch.from_numpy(np.where(apart, np.float32(MASKED), np.float32(0.0))) if apart.any() else None

    def _apart(self, row_zones: npt.NDArray[np.int64], column_zones: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which tokens of each window lie in different zones."""
        zones = row_zones[:, None] * 3 + column_zones
        (down, across), size = self.grid, self.size
        windows = zones.reshape(down, size, across, size).swapaxes(1, 2).reshape(down * across, size * size)
        return np.asarray(windows[:, :, None] != windows[:, None, :])


def _zones(length: int, first: int, second: int) -> npt.NDArray[np.int64]:
    """[length], 0 before `first`, 1 before `second`, then 2; negative positions count from the end."""
    zones = np.zeros(length, np.int64)
    zones[first:] = 1
    zones[second:] = 2
    return zones


class InterFrameAttention(nn.Module):
    """Every window attends to the same window of the other frame.

    The attention weights move the other frame's features (appearance) and its coordinates (motion: where the match
    lies, less the own place). Two calls of fused attention rather than one explicit softmax: compilers have kernels
    for the former only.
    """

    def __init__(self, channels: int, motion_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        self.cor_embed = nn.Linear(2, motion_channels)
        self.motion_proj = nn.Linear(motion_channels, motion_channels)

    def forward(self, x: Tensor, cor: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """x: [2n, N, C], cor: [2n, N, 2], windows of the first frames, then of the second; mask: [n / k, N, N].

        Returns appearance [2n, N, C] and motion [2n, N, motion channels].
        """
        first, second = x.chunk(2)
        query = self._split_heads(self.q(x))
        key, value = (self._split_heads(t) for t in self.kv(torch.cat([second, first])).chunk(2, dim=-1))
        place = self.cor_embed(cor)
        if mask is not None:
            mask = mask.to(x.device, x.dtype).repeat(len(x) // len(mask), 1, 1)[:, None]
        appearance = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        places = self._split_heads(place)
        width = places.shape[-1]
        # Compilers take values only as wide as the keys; a motion head is narrower.
        places = F.pad(places, (0, key.shape[-1] - width))
        match = F.scaled_dot_product_attention(query, key, places, attn_mask=mask)[..., :width]
        return self.proj(_merge_heads(appearance)), self.motion_proj(_merge_heads(match) - place)

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Linear, depthwise 3x3 convolution, GELU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x: [N, h, w, C] -> the same."""
        hidden = self.dwconv(self.fc1(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        output: Tensor = self.fc2(F.gelu(hidden))
        return output


class MotionBlock(nn.Module):
    """One block of an attention stage."""

    def __init__(self, channels: int, motion_channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attn = InterFrameAttention(channels, motion_channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=NORM_EPS)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor, cor: Tensor) -> tuple[Tensor, Tensor]:
        """x: [2B, h, w, C], cor: [2B, h, w, 2], first frames, then second -> x and motion [2B, h, w, motion]."""
        windows = Windows(x.shape[1], x.shape[2], self.window, self.shift)
        tokens = self.norm1(windows.split(x))
        appearance, motion = self.attn(tokens, windows.split(cor), windows.mask())
        x = windows.merge(tokens + appearance)  # the normalised tokens are the base, not x
        return x + self.mlp(self.norm2(x)), windows.merge(motion)
