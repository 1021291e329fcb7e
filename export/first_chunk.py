"""The program `python -m stt2v.export.first_chunk FOLDER`: one of diffusers' pipelines makes a first chunk or a still.

Started by `engine/first_chunk.py`, which says what lies in the folder. Models and settings are those of StreamingT2V's
published code; what it leaves to the library is left to the library here. Nothing is compiled.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AnimateDiffPipeline,
    DDIMScheduler,
    MotionAdapter,
    StableDiffusionXLPipeline,
    StableVideoDiffusionPipeline,
)
from PIL import Image

from stt2v.engine.first_chunk import ERROR, FRAMES, IMAGE, JOB, Job

ANIMATEDIFF = "SG161222/Realistic_Vision_V5.1_noVAE"
MOTION_ADAPTER = "guoyww/animatediff-motion-adapter-v1-5-2"
SVD = "stabilityai/stable-video-diffusion-img2vid-xt"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"

CUDA = torch.cuda.is_available()
DTYPE = torch.float16 if CUDA else torch.float32


def animatediff(job: Job, image: Image.Image | None) -> list[Image.Image]:
    """16 frames of 512x512."""
    scheduler = _loaded(
        DDIMScheduler,
        ANIMATEDIFF,
        subfolder="scheduler",
        clip_sample=False,
        timestep_spacing="linspace",
        beta_schedule="linear",
        steps_offset=1,
    )
    adapter = _loaded(MotionAdapter, MOTION_ADAPTER, torch_dtype=DTYPE)
    pipeline = _placed(
        _loaded(AnimateDiffPipeline, ANIMATEDIFF, motion_adapter=adapter, scheduler=scheduler, torch_dtype=DTYPE)
    )
    pipeline.vae.enable_slicing()
    result = pipeline(
        job.prompt,
        negative_prompt="bad quality, worse quality",
        num_frames=16,
        num_inference_steps=25,
        guidance_scale=7.5,
        generator=_generator(job),
    )
    return list(result.frames[0])


def svd(job: Job, image: Image.Image | None) -> list[Image.Image]:
    """25 frames of 1024x576 that begin with `image`."""
    pipeline = _placed(_loaded(StableVideoDiffusionPipeline, SVD, torch_dtype=DTYPE, variant="fp16"))
    result = pipeline(image, num_inference_steps=25, decode_chunk_size=8, generator=_generator(job))
    return list(result.frames[0])


def sdxl(job: Job, image: Image.Image | None) -> list[Image.Image]:
    """One picture of 1024x1024."""
    pipeline = _placed(
        _loaded(StableDiffusionXLPipeline, SDXL, torch_dtype=DTYPE, variant="fp16", use_safetensors=True)
    )
    return list(pipeline(job.prompt, generator=_generator(job)).images)


PIPELINES: Mapping[str, Callable[[Job, Image.Image | None], list[Image.Image]]] = {
    "animatediff": animatediff,
    "svd": svd,
    "sdxl": sdxl,
}


def main(folder: Path) -> None:
    """Do the job in `folder`; what goes wrong is written down there in one line."""
    job = Job(**json.loads((folder / JOB).read_text()))
    image = Image.fromarray(np.load(folder / IMAGE)) if (folder / IMAGE).is_file() else None
    try:
        pictures = PIPELINES[job.pipeline](job, image)
    except Exception as error:
        (folder / ERROR).write_text(json.dumps({"kind": _kind(error), "message": _first_line(error)}))
    else:
        np.save(folder / FRAMES, np.stack([np.asarray(picture.convert("RGB")) for picture in pictures]))


def _loaded(kind: Any, repository: str, **options: Any) -> Any:
    """From the Hub, or where the Hub's client keeps what it has downloaded before."""
    return kind.from_pretrained(repository, **options)


def _placed(pipeline: Any) -> Any:
    """The pipeline, ready: on a GPU each network goes there only while it runs."""
    if CUDA:
        pipeline.enable_model_cpu_offload()
    return pipeline


def _generator(job: Job) -> torch.Generator:
    """On the host, so that the same seed gives the same noise on every device."""
    return torch.Generator().manual_seed(job.seed)


def _kind(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "memory"
    return "weights" if isinstance(error, OSError) else "other"  # all of the Hub's errors are OSErrors


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


if __name__ == "__main__":
    main(Path(sys.argv[1]))
