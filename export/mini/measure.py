"""How good the trained networks are on combinations that were never rendered in training.

python -m stt2v.export.mini.measure --weights DIR --sheet sheet.png [--prompts 48] [--chunks 9]. Better on a GPU.
"""

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stt2v.export.mini.captions import plain_caption, token_ids
from stt2v.export.mini.judge import Judge, kind_of_motion, look
from stt2v.export.mini.networks import CHUNK, CONDITIONAL, Core
from stt2v.export.mini.sample import Settings, generate
from stt2v.export.mini.scene import Scene, combinations, draw_scene
from stt2v.export.mini.training import load
from stt2v.export.mini.vae import Autoencoder

SHOWN = 16  # videos, and frames of each, on a sheet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quality:
    """Shares of frames with the right object (all, first chunk, last new frames) and of videos with the right motion.

    seam: mean frame difference across chunk borders over that inside; vigour: frame difference of the last frames
    over that of the first.
    """

    object: float
    object_first: float
    object_last: float
    motion: float
    seam: float
    vigour: float


def quality(judge: Judge, frames: Tensor, scenes: list[Scene]) -> Quality:
    """frames: [B, F, 3, S, S], in [-1, 1], made for these scenes."""
    objects, tracks = look(judge, frames)
    wanted = torch.tensor([scene.object for scene in scenes], device=frames.device)
    moves = torch.tensor([scene.motion for scene in scenes], device=frames.device)
    right = (objects == wanted[:, None]).float()
    change = frames.diff(dim=1).abs().mean((2, 3, 4))  # [B, F - 1]
    fresh = CHUNK - CONDITIONAL
    border = torch.zeros(change.shape[1], dtype=torch.bool, device=frames.device)
    border[CHUNK - 1 :: fresh] = True
    return Quality(
        object=float(right.mean()),
        object_first=float(right[:, :CHUNK].mean()),
        object_last=float(right[:, -fresh:].mean()),
        motion=float((kind_of_motion(tracks) == moves).float().mean()),
        seam=float(change[:, border].mean() / change[:, ~border].mean()),
        vigour=float(change[:, -fresh:].mean() / change[:, :fresh].mean()),
    )


def held_out_scenes(count: int, seed: int = 99) -> list[Scene]:
    """Different combinations that training never renders."""
    random = np.random.default_rng(seed)
    choices = combinations(kept_for_testing=True)
    return [draw_scene(choices[index], random) for index in random.permutation(len(choices))[:count]]


def sheet(frames: Tensor) -> Image.Image:
    """One row a video: frames [B, F, 3, S, S], in [-1, 1]."""
    chosen = frames[:SHOWN, :: max(frames.shape[1] // SHOWN, 1)][:, :SHOWN]
    rows = torch.cat([torch.cat(list(video), dim=-1) for video in chosen], dim=-2)
    return Image.fromarray(((rows.permute(1, 2, 0) + 1) * 127.5).round().byte().cpu().numpy())


def main() -> None:
    """Generate, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--chunks", type=int, default=9)
    parser.add_argument("--guidance", type=float, default=Settings.guidance)
    parser.add_argument("--no-cam", dest="cam", action="store_false")
    parser.add_argument("--no-apm", dest="apm", action="store_false")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    judge, core, vae = Judge().to(device).eval(), Core().to(device).eval(), Autoencoder().to(device).eval()
    for name, module in (("judge", judge), ("core", core), ("vae", vae)):
        load(name, module, given.weights)
    scenes = held_out_scenes(given.prompts)
    tokens = torch.from_numpy(token_ids([plain_caption(scene) for scene in scenes])).to(device)
    settings = Settings(chunks=given.chunks, guidance=given.guidance, cam=given.cam, apm=given.apm)
    frames = generate(core, vae, tokens, settings)
    logger.info("%s", json.dumps(asdict(quality(judge, frames, scenes))))
    sheet(frames).save(given.sheet)


if __name__ == "__main__":
    main()
