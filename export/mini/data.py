"""Batches of scenes for training and testing, endless and decided by a seed."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stt2v.export.mini.captions import caption, token_ids
from stt2v.export.mini.scene import combinations, draw_scene
from stt2v.export.mini.world import SceneBatch


@dataclass(frozen=True)
class Batch:
    """Scenes, their captions as tokens [B, T], and a time of each scene to begin at, [B]."""

    scenes: SceneBatch
    tokens: Tensor
    begin: Tensor

    def times(self, frames: int) -> Tensor:
        """[B, F]: consecutive frames from where each scene begins."""
        return self.begin[:, None] + torch.arange(frames, device=self.begin.device)


def draw_batch(size: int, random: np.random.Generator, device: str, kept_for_testing: bool = False) -> Batch:
    """`size` scenes, every possible combination of one side of the split equally likely."""
    choices = combinations(kept_for_testing)
    scenes = [draw_scene(choices[index], random) for index in random.integers(len(choices), size=size)]
    tokens = torch.from_numpy(token_ids([caption(scene, random) for scene in scenes]))
    begin = torch.from_numpy(random.uniform(0, 64, size).astype(np.float32))
    return Batch(SceneBatch.of(scenes, device), tokens.to(device), begin.to(device))


def batches(size: int, seed: int, device: str) -> Iterator[Batch]:
    """Training batches without end; the next ones are drawn in the background while one is used."""
    random = np.random.default_rng(seed)
    with ThreadPoolExecutor(1) as pool:
        ahead: list[Future[Batch]] = [pool.submit(draw_batch, size, random, device) for _ in range(4)]
        while True:
            ahead.append(pool.submit(draw_batch, size, random, device))
            yield ahead.pop(0).result()
