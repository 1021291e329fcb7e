"""`tiny`: StreamingSVD at toy width with fixed random weights, for tests and trials of the whole path."""

from dataclasses import replace

from stt2v.engine.models.model import Denoising, Enhancing
from stt2v.engine.models.streaming_svd import STREAMING_SVD

TINY = replace(
    STREAMING_SVD,
    name="tiny",
    summary="StreamingSVD at toy width, untrained: shows that everything runs, its pictures are noise",
    width=128,
    height=64,
    inputs=("image",),
    first=Denoising("karras", 4, (1.0, 3.0)),
    streaming=Denoising("align-your-steps", 4, (1.5, 3.0)),
    num_frames=64,
    interpolate=True,
    fps=12.0,
    enhancing=Enhancing("i2vgen-xl", 256, 128, window=8, overlap=3, steps=3),
    toy=True,
    warning="tiny is untrained: its frames are coloured noise around the anchor, not a video of your picture",
)
