"""Whether the engines make the videos that `bench/quality.py` judged: the same prompts and seeds, on this machine."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from stt2v.engine.errors import InputError
from stt2v.engine.models.mini import MINI
from stt2v.engine.request import Request
from stt2v.engine.session import Session
from stt2v.export.build_model import own_weights
from stt2v.export.mini.captions import plain_caption
from stt2v.export.mini.judge import Judge, look
from stt2v.export.mini.measure import held_out_scenes
from stt2v.export.mini.training import load


@dataclass(frozen=True)
class Agreement:
    """For each prompt the peak signal to noise ratio of the engine's frames, in dB, and the share of equal verdicts."""

    psnr: tuple[float, ...]
    verdicts: tuple[float, ...]

    def lines(self) -> list[str]:
        """The figures in words."""
        pairs = zip(self.psnr, self.verdicts, strict=True)
        return [f"prompt {n}: {psnr:.1f} dB, {same:.1%} equal verdicts" for n, (psnr, same) in enumerate(pairs)]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def agreement(kept: Path, prompts: int) -> Agreement:
    """Make the first prompts' base frames with the engine set and compare them with those in `kept`.

    Raises InputError when that is no file of such.
    """
    folder, judge = own_weights(MINI.name), Judge().eval()
    assert folder is not None
    load("judge", judge, folder)
    wanted = _kept_frames(kept)[:prompts]
    psnr, verdicts = [], []
    with Session.open(MINI.name) as session:
        for index, (scene, judged) in enumerate(zip(held_out_scenes(len(wanted)), wanted, strict=True)):
            request = Request(
                prompt=plain_caption(scene),
                seed=MINI.seed + index,
                num_frames=len(judged),
                enhancer="none",
                interpolate=False,
            )
            made = np.concatenate([chunk.frames for chunk in session.generate(request)])
            error = np.mean((made.astype(np.float64) - judged) ** 2)
            psnr.append(float(10 * np.log10(255**2 / max(error, 1e-9))))
            verdicts.append(float(np.mean(_verdicts(judge, made) == _verdicts(judge, judged))))
    return Agreement(tuple(psnr), tuple(verdicts))


def _kept_frames(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """[B, F, H, W, 3], as `bench/quality.py: save_base` keeps them."""
    try:
        with path.open("rb") as file:
            frames: np.ndarray[Any, np.dtype[np.uint8]] = np.load(file)["base"]
    except (OSError, EOFError, ValueError, LookupError, BadZipFile) as error:
        raise InputError(f"{path} holds no frames ({error}); expected a file of `bench quality --keep`") from error
    return frames


def _verdicts(judge: Judge, frames: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """frames: [F, H, W, 3], uint8 -> the object that is seen in each."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    return np.asarray(look(judge, pixels)[0][0].numpy())
