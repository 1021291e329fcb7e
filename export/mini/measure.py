"""What can be said of videos of this world by means that do not come from the networks that made them.

Frames are [B, F, 3, S, S], in [-1, 1], throughout.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stt2v.export.mini.judge import Judge, kind_of_motion, look
from stt2v.export.mini.networks import CHUNK, CONDITIONAL
from stt2v.export.mini.scene import Scene, combinations, draw_scene
from stt2v.export.mini.world import SceneBatch, render

FRESH = CHUNK - CONDITIONAL  # new frames of each chunk but the first


@dataclass(frozen=True)
class Quality:
    """Figures of some videos.

    object, object_last: share of frames with the right object, of all and of the last chunk's new ones; motion: share
    of videos with the right kind of motion; seam: mean frame difference across chunk borders over that inside;
    vigour: frame difference of the last chunk over that of the first; colour: how far the object's mean colour has
    moved from the first chunk to the last, on the 0..255 scale.
    """

    object: float
    object_last: float
    motion: float
    seam: float
    vigour: float
    colour: float


def quality(judge: Judge, frames: Tensor, scenes: list[Scene]) -> Quality:
    """The figures of videos made for these scenes."""
    objects, tracks = look(judge, frames)
    wanted = torch.tensor([scene.object for scene in scenes], device=frames.device)
    moves = torch.tensor([scene.motion for scene in scenes], device=frames.device)
    right = (objects == wanted[:, None]).float()
    change = frames.diff(dim=1).abs().mean((2, 3, 4))  # [B, F - 1]
    return Quality(
        object=float(right.mean()),
        object_last=float(right[:, -FRESH:].mean()),
        motion=float((kind_of_motion(tracks) == moves).float().mean()),
        seam=seam(frames, FRESH),
        vigour=float(change[:, -FRESH:].mean() / change[:, :FRESH].mean()),
        colour=float(
            (object_colour(judge, frames[:, -FRESH:]) - object_colour(judge, frames[:, :FRESH])).norm(dim=1).mean()
        ),
    )


def seam(frames: Tensor, every: int) -> float:
    """Mean frame difference at the borders of parts over that inside: the first has `CHUNK` frames, others `every`."""
    change = frames.diff(dim=1).abs().mean((2, 3, 4))
    border = torch.zeros(change.shape[1], dtype=torch.bool, device=frames.device)
    border[CHUNK - 1 :: every] = True
    return float(change[:, border].mean() / change[:, ~border].mean())


def object_colour(judge: Judge, frames: Tensor) -> Tensor:
    """Mean colour of the pixels that the judge takes for the object: [B, 3], 0..255."""
    small = torch.nn.functional.adaptive_avg_pool2d(frames.flatten(0, 1), 16)
    with torch.no_grad():
        cover = torch.sigmoid(judge(torch.nn.functional.adaptive_avg_pool2d(frames.flatten(0, 1), 64))[1])
    mean = (small * cover).sum((2, 3)) / (cover.sum((2, 3)) + 1e-6)
    return 127.5 * (torch.unflatten(mean, 0, frames.shape[:2]).mean(1) + 1)


def held_out_scenes(count: int, seed: int = 99) -> list[Scene]:
    """Different combinations that training never renders."""
    random = np.random.default_rng(seed)
    choices = combinations(kept_for_testing=True)
    return [draw_scene(choices[index], random) for index in random.permutation(len(choices))[:count]]


def truth(scenes: list[Scene], frames: int, size: int, device: str) -> Tensor:
    """The scenes as they are rendered."""
    times = torch.arange(frames, dtype=torch.float32, device=device).expand(len(scenes), -1)
    return render(SceneBatch.of(scenes, device), times, size)[0]
