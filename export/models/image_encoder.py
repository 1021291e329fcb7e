"""An image to its CLIP embedding: resizing as a product of matrices, then the image tower.

The reference blurs, resizes (bicubic, corners aligned) and normalises. Blur and resizing are linear and separable, so
for images of a known size they are one matrix a side, on any backend and in any order of summation that it likes.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionModelWithProjection

from stt2v.export.models.clip import ImageTower

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SMALLEST_SIGMA = 0.001


def resize_matrix(length: int, size: int, blur: bool) -> Tensor:
    """Blur and resizing of one side from `length` to `size` pixels: [size, length]."""
    image = torch.eye(length)
    if blur:
        image = _gaussian_blur(image, max((length / size - 1) / 2, SMALLEST_SIGMA))
    resized = functional.interpolate(image[None, None], (size, length), mode="bicubic", align_corners=True)
    return resized[0, 0]


def _gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Blur the first axis of [length, n], reflecting at the borders."""
    taps = int(max(4 * sigma, 3)) // 2 * 2 + 1
    distance = torch.arange(taps, dtype=torch.float32) - taps // 2
    kernel = torch.exp(-(distance**2) / (2 * sigma**2))
    padded = functional.pad(image.T[:, None], (taps // 2, taps // 2), mode="reflect")
    return functional.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T


class ClipPreprocessing(nn.Module):
    """image: [N, 3, height, width], in [-1, 1] -> [N, 3, size, size], normalised. Nothing is cropped or clamped."""

    def __init__(self, height: int, width: int, size: int) -> None:
        super().__init__()
        self.resized = (height, width) != (size, size)
        blur = max(height, width) > size
        self.rows = nn.Buffer(resize_matrix(height, size, blur), persistent=False)
        self.columns = nn.Buffer(resize_matrix(width, size, blur).T.contiguous(), persistent=False)
        self.mean = nn.Buffer(torch.tensor(MEAN)[:, None, None], persistent=False)
        self.std = nn.Buffer(torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        if self.resized:
            image = self.rows @ image @ self.columns
        return ((image + 1) / 2 - self.mean) / self.std


class ImageEncoder(nn.Module):
    """image: [N, 3, H, W], float32, in [-1, 1] -> embedding: [N, 1, D], one context token each."""

    def __init__(self, tower: CLIPVisionModelWithProjection, height: int, width: int) -> None:
        super().__init__()
        self.preprocessing = ClipPreprocessing(height, width, cast(int, tower.config.image_size))
        self.tower = ImageTower(tower)

    def forward(self, image: Tensor) -> Tensor:
        embedding: Tensor = self.tower(self.preprocessing(image))
        return embedding[:, None]
