"""EMA-VFI at a tenth of its width, trained on frames between frames that the renderer knows exactly."""

from collections.abc import Callable

import torch
from torch import Tensor

from stt2v.export.mini.data import batches
from stt2v.export.mini.training import Run, fit
from stt2v.export.mini.world import render
from stt2v.export.models.ema_vfi import EmaVfi, EmaVfiConfig, blend, warp_pair

NAME = "interpolator"
CONFIG = EmaVfiConfig(width=3, depths=(1, 1, 1, 2, 2), heads=(2, 4), window=4)
RATE = 1.5e-3
SIDE = 128
FLOW_WEIGHT = 0.5
SPRITE_WEIGHT = 4.0


def train_interpolator(run: Run) -> None:
    """Train to give the frame between two frames of a scene."""
    torch.manual_seed(run.seed)
    model = EmaVfi(CONFIG).to(run.device)
    run.begin(NAME, model)
    fit(NAME, model, interpolation_loss(model, run), run, RATE)


def interpolation_loss(model: EmaVfi, run: Run) -> Callable[[int], Tensor]:
    """Absolute error of the frame, and of what flow and mask alone make of it at each scale."""
    source = batches(run.batch or 48, run.seed + 2, run.device)

    def loss(step: int) -> Tensor:
        batch = next(source)
        times = batch.begin[:, None] + torch.tensor([0.0, 0.5, 1.0], device=run.device)
        frames, cover = render(batch.scenes, times, SIDE)
        first, middle, last = ((frames.flip(2) + 1) / 2).unbind(1)  # BGR
        weight = 1 + SPRITE_WEIGHT * cover.amax(1)
        with run.precision():
            features = model.features(first, last)
            stages = list(model.flow_stages(first, last, features, 0.5))
            result = model.render(first, last, *stages[-1], features.appearance)
        flows = sum(((blend(*warp_pair(first, last, f), m) - middle).abs() * weight).mean() for f, m in stages)
        return ((result - middle).abs() * weight).mean() + FLOW_WEIGHT * flows

    return loss
