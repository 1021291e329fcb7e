"""MAWE on given flows."""

import numpy as np

from golden.cases import Adapter, Case, Limit
from stt2v.engine.metrics import mawe, resized, splat


def compute(case: Case) -> dict[str, object]:
    frames = case.inputs["frames_uint8"].astype(np.uint8).transpose(0, 2, 3, 1)
    if case.config["resize_to_720"]:
        frames = np.stack([resized(frame) for frame in frames])
    flows = case.inputs["flows"] if "flows" in case.inputs else _affine(case.inputs["flow_params"], frames.shape[1:3])
    result = mawe(frames, flows, case.config["coeff"])
    warps = [splat(frame, flow) for frame, flow in zip(frames, flows, strict=False)]
    warped = np.stack([warp.image for warp in warps]).transpose(0, 3, 1, 2).astype(np.float32)
    return {
        "warp_errors": [pair.warp_error for pair in result.pairs],
        "motions": [pair.motion for pair in result.pairs],
        "known_fraction": [pair.known for pair in result.pairs],
        "mawe": result.value,
        "warped": warped,
        "unknown_mask": np.stack([~warp.known for warp in warps]).astype(np.float32),
        "warped_every_60": warped[..., ::60, ::60],
        "resized_frames_every_48": frames.transpose(0, 3, 1, 2)[..., ::48, ::48].astype(np.float32),
    }


def _affine(params: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    p = params[..., None, None]
    return np.stack([p[:, 0] + p[:, 1] * x + p[:, 2] * y, p[:, 3] + p[:, 4] * x + p[:, 5] * y], axis=1)


# Enlarging by whole factors makes ties that rounding errors decide, so a resized pixel may be one level off.
ONE_LEVEL = Limit(rel=None, absolute=1.0)
ADAPTERS = {"mawe": Adapter(compute, {"resized_frames_*": ONE_LEVEL, "warped_every_*": ONE_LEVEL})}
