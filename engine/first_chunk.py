"""First chunks and stills that are made outside the engines, by diffusers, in a process of its own.

A process, because it needs torch, which the engine does without, and gives its memory back before the engines run.
The two speak through files in a folder: `job.json` and `image.npy` there, `frames.npy` or `error.json` back.
"""

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from stt2v.engine.backends.base import Frames
from stt2v.engine.errors import BackendError, OutOfMemoryError, Stt2vError
from stt2v.engine.media.canvas import Size
from stt2v.engine.media.first_chunk import central_square, nearest, squeezed, with_margins, without_margins
from stt2v.engine.media.image import load_image

if TYPE_CHECKING:
    from PIL.Image import Image

PROGRAM = "stt2v.export.first_chunk"  # by name: the engine does not import the room that needs torch
JOB, IMAGE, FRAMES, ERROR = "job.json", "image.npy", "frames.npy", "error.json"
NEEDED = ("torch", "diffusers", "transformers", "accelerate")


@dataclass(frozen=True)
class Job:
    """What the process makes: `pipeline` is animatediff, svd or sdxl."""

    pipeline: str
    prompt: str
    seed: int


def first_chunk_frames(
    kind: str, prompt: str, image: "Path | Image | None", seed: int, count: int = 16, size: Size = (256, 256)
) -> Frames:
    """The first `count` frames (16 at most) by `kind`, animatediff or svd: [count, height, width, 3], uint8.

    svd starts from the middle of `image`, or without one from a still of the prompt. Sizes, crops and margins are
    the reference's; unlike there, the still depends on the seed.

    Raises: InputError for the image; BackendError when diffusers or its weights are missing, OutOfMemoryError.
    """
    if kind == "svd":
        square = squeezed(still(prompt, seed)) if image is None else central_square(load_image(image))
        frames = without_margins(_made(Job("svd", prompt, seed), with_margins(square))[:count])
    else:
        frames = _made(Job(kind, prompt, seed))[:count]
    return nearest(frames, size)


def still(prompt: str, seed: int) -> "Image":
    """A picture of the prompt by Stable Diffusion XL, 1024x1024. Raises BackendError, OutOfMemoryError."""
    from PIL import Image

    return Image.fromarray(_made(Job("sdxl", prompt, seed))[0])


def _made(job: Job, image: Frames | None = None) -> Frames:
    """What the process makes: [F, H, W, 3], uint8, as the pipeline gives it."""
    for module in NEEDED:
        if importlib.util.find_spec(module) is None:
            raise BackendError(f"{job.pipeline} needs {module}, which is not installed; pip install 'stt2v[t2i]'")
    with TemporaryDirectory(prefix="stt2v-") as name:
        folder = Path(name)
        (folder / JOB).write_text(json.dumps(asdict(job)))
        if image is not None:
            np.save(folder / IMAGE, image)
        command = [sys.executable, "-P", "-m", PROGRAM, name]  # -P: no modules from the folder that the user is in
        # In a group of its own, or Ctrl-C, which is to end the video after this chunk, would end the process.
        done = subprocess.run(command, capture_output=True, text=True, check=False, process_group=0)
        if (folder / ERROR).is_file():
            raise _failure(job, **json.loads((folder / ERROR).read_text()))
        if done.returncode:
            raise _death(job, done.returncode, done.stderr)
        frames: Frames = np.load(folder / FRAMES)
    return frames


def _failure(job: Job, kind: str, message: str) -> Stt2vError:
    if kind == "memory":
        return OutOfMemoryError(
            f"{job.pipeline} ran out of memory ({message}); free some, or leave out --first-chunk or give an --image"
        )
    if kind == "weights":
        return BackendError(
            f"the weights of {job.pipeline} cannot be loaded ({message}); diffusers downloads them from the Hugging"
            " Face Hub when first used: see that it can be reached"
        )
    return BackendError(f"{job.pipeline} failed ({message}); see that the packages of stt2v[t2i] are current")


def _death(job: Job, code: int, said: str) -> Stt2vError:
    if code == -9:
        return _failure(job, "memory", "its process was killed")
    return _failure(job, "other", (said.strip().splitlines() or [f"exit code {code}"])[-1])
