"""How good the videos of `mini` are: prompts that training never rendered, judged by what has seen rendered truth only.

The networks run many prompts at once, as torch modules and with the engine's noise; `bench/agreement.py` holds the
engines against what comes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stt2v.engine.flow import NAME as FLOW
from stt2v.engine.flow import dense_flow
from stt2v.engine.metrics import mawe, motion
from stt2v.engine.models.mini import MINI
from stt2v.engine.noise import Noise
from stt2v.engine.progress import Progress
from stt2v.export.build_model import own_weights
from stt2v.export.families.mini import Networks, networks_of
from stt2v.export.mini.captions import plain_caption, token_ids
from stt2v.export.mini.judge import Judge, kind_of_motion, look
from stt2v.export.mini.measure import FRESH, Quality, held_out_scenes, quality, seam, truth
from stt2v.export.mini.networks import CHUNK, SIDE
from stt2v.export.mini.sample import Settings, enhance, generate
from stt2v.export.mini.scene import Scene
from stt2v.export.mini.training import load
from stt2v.export.weights.folder import WeightFolder

SHORT = 80  # frames of a video whose figures stand beside those of the long one
ABLATED = 25  # prompts of each ablation
ENHANCED_AT_ONCE = 25
PICTURED = 8
KEPT = 5  # prompts whose frames can be kept


@dataclass(frozen=True)
class QualityReport:
    """The figures. judge: share of rendered truth that it names rightly (objects, motions); rows: by what was made;

    window_seams: of enhanced videos, with and without randomized blending; flow: median length of the optical flow in
    the last chunk over that in the first; mawe: median motion aware warp error of some enhanced videos and of the same
    scenes as rendered; by_chunk: share of right objects in each chunk, by what was made.
    """

    prompts: int
    frames: int
    device: str
    judge: tuple[float, float]
    rows: Mapping[str, Quality]
    window_seams: tuple[float, float]
    flow: float
    mawe: tuple[float, float]
    by_chunk: Mapping[str, list[float]]

    def lines(self) -> list[str]:
        """A table in words."""
        head = f"{self.prompts} held-out prompts, {self.frames} base frames, {self.device}"
        judged = f"the judge names {self.judge[0]:.1%} of rendered objects and {self.judge[1]:.1%} of motions rightly"
        names = ("object", "object_last", "motion", "seam", "vigour", "colour")
        table = [f"{'':24}" + "".join(f"{name:>13}" for name in names)]
        for name, row in self.rows.items():
            table.append(f"{name:24}" + "".join(f"{getattr(row, column):13.3f}" for column in names))
        blended, cut = self.window_seams
        made, rendered = self.mawe
        return [
            head,
            judged,
            *table,
            f"seams between the enhancer's windows: {blended:.3f} with randomized blending, {cut:.3f} without",
            f"optical flow of the last chunk over the first's: {self.flow:.2f}",
            f"MAWE: {made:.2f} of enhanced videos, {rendered:.2f} of the same scenes as rendered, flow by {FLOW}",
        ]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Made:
    """A report and what it is about, [B, F, S, S, 3], uint8: the base videos' first frames, enhanced videos."""

    report: QualityReport
    base: np.ndarray[Any, np.dtype[np.uint8]]
    enhanced: np.ndarray[Any, np.dtype[np.uint8]]


class Examination:
    """All videos of some held-out scenes on one device."""

    def __init__(self, prompts: int, frames: int, device: str) -> None:
        self.device = device
        self.scenes = held_out_scenes(prompts)
        self.chunks = 1 + max(0, -(-(frames - CHUNK) // FRESH))
        folder = own_weights(MINI.name)
        assert folder is not None
        self.networks: Networks = networks_of(WeightFolder(folder), 0)
        for module in vars(self.networks).values():
            module.to(device)
        self.judge = Judge().to(device).eval()
        load("judge", self.judge, folder)
        self.tokens = torch.from_numpy(token_ids([plain_caption(scene) for scene in self.scenes])).to(device)
        self.noises = [Noise(MINI.seed + index) for index in range(prompts)]

    def base(self, count: int, settings: Settings) -> Tensor:
        """Base frames of the first `count` prompts."""
        how = replace(settings, chunks=self.chunks)
        return generate(self.networks.core, self.networks.autoencoder, self.tokens[:count], self.noises[:count], how)

    def enhanced(self, base: Tensor, settings: Settings) -> Tensor:
        """The base frames of the first prompts enhanced."""
        parts = []
        for start in range(0, len(base), ENHANCED_AT_ONCE):
            some = slice(start, min(start + ENHANCED_AT_ONCE, len(base)))
            made = enhance(
                self.networks.enhancer, self.networks.core, self.networks.autoencoder,
                self.tokens[some], base[some], self.noises[some], settings,
            )  # fmt: skip
            parts.append(made.cpu())
        return torch.cat(parts)

    def figures(self, frames: Tensor) -> Quality:
        """What the judge says of videos of the first scenes."""
        return quality(self.judge, frames.to(self.device), self.scenes[: len(frames)])

    def right_by_chunk(self, frames: Tensor) -> list[float]:
        """Share of right objects in the new frames of each chunk."""
        objects, _ = look(self.judge, frames)
        wanted = torch.tensor([scene.object for scene in self.scenes[: len(frames)]], device=frames.device)
        right = (objects == wanted[:, None]).float().mean(0)
        return [float(part.mean()) for part in (right[:CHUNK], *torch.split(right[CHUNK:], FRESH))]


def examine(prompts: int, frames: int, device: str, progress: Progress) -> Made:
    """Make and judge the videos."""
    examination = Examination(prompts, frames, device)
    few = min(ABLATED, prompts)
    progress.stage("quality", 5)
    base = examination.base(prompts, Settings())
    progress.advance("quality", made="base")
    enhanced = examination.enhanced(base, Settings())
    progress.advance("quality", made="enhanced")
    ablated = {
        "no CAM": examination.base(few, Settings(cam=False)),
        "no APM": examination.base(few, Settings(apm=False)),
    }
    progress.advance("quality", 2, made="without memories")
    cut = examination.enhanced(base[:few], Settings(overlap=0))
    progress.advance("quality", made="without randomized blending")
    pictured = enhanced[:PICTURED]
    rendered = truth(examination.scenes[: len(pictured)], SHORT, pictured.shape[-1], "cpu")
    few_rows = {f"the first {few}": base[:few], **ablated}
    rows = {
        f"base, first {SHORT} frames": examination.figures(base[:, :SHORT]),
        "base": examination.figures(base),
        "enhanced": examination.figures(enhanced),
        **{name: examination.figures(frames) for name, frames in few_rows.items()},
    }
    report = QualityReport(
        prompts=prompts,
        frames=base.shape[1],
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
        judge=judged_truth(examination.judge, examination.scenes, device),
        rows=rows,
        window_seams=(seam(enhanced[:few], CHUNK), seam(cut, CHUNK)),
        flow=flow_kept(bytes_of(base[:few])),
        mawe=(warp_error(bytes_of(pictured)), warp_error(bytes_of(rendered))),
        by_chunk={name: examination.right_by_chunk(frames) for name, frames in few_rows.items()},
    )
    return Made(report, bytes_of(base[:, :SHORT]), bytes_of(pictured))


def judged_truth(judge: Judge, scenes: list[Scene], device: str) -> tuple[float, float]:
    """Share of objects and of motions that the judge names rightly where the scenes are rendered."""
    frames = truth(scenes, SHORT, SIDE, device)
    objects, tracks = look(judge, frames)
    wanted, moves = (torch.tensor([getattr(s, name) for s in scenes], device=device) for name in ("object", "motion"))
    right = (objects == wanted[:, None]).float().mean()
    return float(right), float((kind_of_motion(tracks) == moves).float().mean())


def flow_kept(videos: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Median length of the optical flow in the last chunk's new frames over that in the first as many frames.

    videos: [B, F, H, W, 3], uint8.
    """
    first, last = (
        np.median([_mean_flow(video[part]) for video in videos]) for part in (slice(FRESH), slice(-FRESH, None))
    )
    return float(last / first)


def warp_error(videos: np.ndarray[Any, np.dtype[np.uint8]]) -> float:
    """Median motion aware warp error of the first frames of videos: [B, F, H, W, 3], uint8."""
    shorts = [list(video[:SHORT]) for video in videos]
    return float(np.median([mawe(short, [dense_flow(a, b) for a, b in pairwise(short)]).value for short in shorts]))


def _mean_flow(frames: Sequence[np.ndarray[Any, np.dtype[np.uint8]]]) -> float:
    return float(np.mean([motion(dense_flow(a, b)) for a, b in pairwise(frames)]))


def bytes_of(frames: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """[B, F, 3, S, S], in [-1, 1] -> [B, F, S, S, 3], uint8, cut to 8 bits as the engine does."""
    levels = ((frames + 1) * 127.5).floor().clamp(0, 255).byte()
    return levels.permute(0, 1, 3, 4, 2).contiguous().cpu().numpy()


def save_base(base: np.ndarray[Any, np.dtype[np.uint8]], path: Path) -> None:
    """Keep the base frames of the first prompts, for `bench/agreement.py`."""
    with path.open("wb") as file:  # given a path, NumPy would add a suffix to its name
        np.savez_compressed(file, base=base[:KEPT])
