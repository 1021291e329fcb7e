"""A judge of pictures that has seen only rendered truth: what object there is, and where."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.mini.atlas import OBJECTS
from stt2v.export.mini.data import batches
from stt2v.export.mini.scene import MOTIONS
from stt2v.export.mini.training import Run, fit
from stt2v.export.mini.world import render

NAME = "judge"
RATE = 1.5e-3
SIDE = 64  # of the frames it looks at
FRAMES = 4  # of each scene in a training batch
COVER_WEIGHT = 0.5


class Judge(nn.Module):
    """A small residual network with two answers."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.entry = nn.Conv2d(3, width, 3, 2, 1)
        widths = (width, 2 * width, 3 * width, 4 * width)
        self.levels = nn.ModuleList(_Level(a, b) for a, b in pairwise(widths))
        self.cover = nn.Conv2d(2 * width, 1, 1)
        self.object = nn.Linear(widths[-1], len(OBJECTS))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """frames: [N, 3, 64, 64], in [-1, 1] -> logits of objects [N, O], of the sprite's cover [N, 1, 16, 16]."""
        x = functional.relu(self.entry(frames))
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        seen = torch.sigmoid(functional.avg_pool2d(self.cover(maps[0]), maps[0].shape[-1] // x.shape[-1]))
        pooled = (x * seen).sum((2, 3)) / (seen.sum((2, 3)) + 0.1)
        return self.object(pooled), self.cover(maps[0])


class _Level(nn.Module):
    """Two residual blocks, the first of which halves the resolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(inputs, outputs, 2, 2)
        self.first = _convolutions(inputs, outputs, 2)
        self.second = _convolutions(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shortcut(x) + self.first(x)
        out: Tensor = x + self.second(x)
        return out


def _convolutions(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    layers = [nn.GroupNorm(8, inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, stride, 1)]
    layers += [nn.GroupNorm(8, outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 3, 1, 1)]
    return nn.Sequential(*layers)


def train_judge(run: Run) -> None:
    """Train on rendered frames, half of them a little blurred and noisy as decoded ones are."""
    torch.manual_seed(run.seed)
    model = Judge().to(run.device)
    run.begin(NAME, model)
    fit(NAME, model, judge_loss(model, run), run, RATE)


def judge_loss(model: Judge, run: Run) -> Callable[[int], Tensor]:
    """Cross-entropies of both answers."""
    forward = run.prepared(model)
    source = batches(run.batch or 128, run.seed + 1, run.device)

    def loss(step: int) -> Tensor:
        batch = next(source)
        times = batch.begin[:, None] + 16 * torch.rand(len(batch.begin), FRAMES, device=run.device)
        frames, cover = (x.flatten(0, 1) for x in render(batch.scenes, times, SIDE))
        with run.precision():
            objects, seen = forward(roughened(frames))
        truth = functional.avg_pool2d(cover, SIDE // 16)
        wrong = functional.cross_entropy(objects.float(), batch.scenes.object.repeat_interleave(FRAMES))
        return wrong + COVER_WEIGHT * functional.binary_cross_entropy_with_logits(seen.float(), truth)

    return loss


def roughened(frames: Tensor) -> Tensor:
    """Every second frame with a random share of blur and of noise."""
    amount = torch.rand(len(frames), 1, 1, 1, device=frames.device)
    amount[::2] = 0
    blurred = functional.avg_pool2d(functional.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(frames, blurred, amount) + 0.1 * amount.roll(2, 0) * torch.randn_like(frames)


@torch.no_grad()
def look(judge: Judge, frames: Tensor) -> tuple[Tensor, Tensor]:
    """frames: [B, F, 3, S, S] -> object of each frame [B, F], and the sprite's track [B, F, 3]: middle, log area."""
    small = functional.adaptive_avg_pool2d(frames.flatten(0, 1), SIDE)
    objects, cover = judge(small)
    seen = torch.sigmoid(cover[:, 0])
    seen = seen * (seen > 0.2)
    total = seen.sum((1, 2)) + 1e-6
    places = (torch.arange(16, device=frames.device) + 0.5) / 16
    across, down = (seen.sum(1) * places).sum(1) / total, (seen.sum(2) * places).sum(1) / total
    track = torch.stack([across, down, total.log()], dim=1)
    return objects.argmax(1).reshape(frames.shape[:2]), track.reshape(*frames.shape[:2], 3)


MOVES, GROWS = 0.03, 0.2
"""Standard deviations over time from which a sprite moves (shares of the frame's side) or grows (log of its area)."""

HOPS = 0.6  # correlation of height with the square of the way aside


def kind_of_motion(track: Tensor) -> Tensor:
    """track: [B, F, 3], as from `look` -> index into MOTIONS, [B]."""
    aside, along, grows = (value > limit for value, limit in zip(track.std(1).T, (MOVES, MOVES, GROWS), strict=True))
    middle = track - track.mean(1, keepdim=True)
    square = middle[..., 0] ** 2
    square = square - square.mean(1, keepdim=True)
    hops = functional.cosine_similarity(square, middle[..., 1], dim=1) > HOPS
    names = {name: index for index, name in enumerate(MOTIONS)}
    kind = torch.full(aside.shape, names["spin"], device=track.device)
    kind[aside & along] = names["circle"]
    kind[aside & along & hops] = names["bounce"]
    kind[aside & ~along] = names["side"]
    kind[~aside & along] = names["rise"]
    kind[~aside & ~along & grows] = names["pulse"]
    return kind
