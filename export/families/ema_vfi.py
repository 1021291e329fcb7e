"""The interpolator EMA-VFI as a graph: published or at toy width, for pictures of a given size."""

from dataclasses import dataclass
from functools import partial

import torch

from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.models.ema_vfi import EmaVfiConfig, MiddleFrame
from stt2v.export.random_weights import random_state
from stt2v.export.weights.base import State
from stt2v.export.weights.ema_vfi import load_ema_vfi, original_shapes

PUBLISHED = EmaVfiConfig()
TOY = EmaVfiConfig(width=4, depths=(1, 1, 1, 2, 2), heads=(2, 4))


def random_weights(config: EmaVfiConfig, seed: int) -> State:
    """Weights by the recipe, for tests and trials."""
    return random_state(original_shapes(config), seed, "interpolate.")


@dataclass(frozen=True)
class InterpolatorGraphs:
    """A graph for each (width, height) of pictures, `batch` pairs at once. weights: under their original keys."""

    config: EmaVfiConfig
    weights: State
    sizes: tuple[tuple[int, int], ...]
    dtype: torch.dtype = torch.float32
    batch: int = 1

    def makers(self) -> dict[str, GraphMaker]:
        """See `engine/stages/interpolate.py` for what it is for."""
        return {f"interpolate_{w}x{h}": partial(self.interpolate, w, h) for w, h in self.sizes}

    def interpolate(self, width: int, height: int) -> Graph:
        """Pairs of pictures; they stay float32 whatever the type of the network."""
        network = load_ema_vfi(self.weights, self.config.heads, self.config.window).to(self.dtype)
        inputs = {name: torch.zeros(self.batch, 3, height, width) for name in ("image0", "image1")}
        return Graph(f"interpolate_{width}x{height}", MiddleFrame(network).eval(), inputs, ("middle",), casts=True)


def toy_graphs(width: int, height: int, seed: int = 0) -> InterpolatorGraphs:
    """The interpolator at toy width with random weights."""
    return InterpolatorGraphs(TOY, random_weights(TOY, seed), ((width, height),))
