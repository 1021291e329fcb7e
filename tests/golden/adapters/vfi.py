"""EMA-VFI: its parts, the network, the ways to call it and the clip."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from golden.cases import Adapter, Case
from stt2v.engine.stages.interpolate import interpolate
from stt2v.export.eager import EagerEngine
from stt2v.export.families.ema_vfi import InterpolatorGraphs
from stt2v.export.models.ema_vfi import EmaVfi, MiddleFrame, blend
from stt2v.export.models.ema_vfi_attention import MotionBlock
from stt2v.export.models.ema_vfi_backbone import CrossScaleEmbed, OverlapEmbed
from stt2v.export.models.ema_vfi_flow import FlowHead, resize, warp, warp_pyramid
from stt2v.export.models.ema_vfi_refine import RefineUNet
from stt2v.export.weights.base import load_strict, take
from stt2v.export.weights.ema_vfi import ema_vfi_config, ema_vfi_state, load_ema_vfi

Outputs = dict[str, Any]
Predict = Callable[[EmaVfi, Tensor, Tensor, float], Tensor]


def warping(case: Case) -> Outputs:
    first, second = warp_pyramid(case.stacked("feat.{}"), case.tensor("flow4"))
    return {
        "warped": warp(case.tensor("x"), case.tensor("flow")),
        **_numbered("warp_features.y0", first),
        **_numbered("warp_features.y1", second),
    }


def block(case: Case) -> Outputs:
    config, state = case.config, ema_vfi_state(case.weights())
    motion_channels, channels = len(state["attn.cor_embed.weight"]), len(state["norm1.weight"])
    module = MotionBlock(channels, motion_channels, config["num_heads"], config["window"], config["shift"])
    seen = _watch(load_strict(module, state).attn)
    cor = case.tensor("cor")
    x, motion = module(case.tensor("x").reshape(*cor.shape[:3], -1), cor)
    (tokens, window_cor, mask), (appearance, window_motion) = seen.inputs, seen.outputs
    attention = {"x1": tokens, "cor": window_cor, "out": appearance, "motion": window_motion}
    if mask is not None:
        attention["mask"] = mask
    return {"x": x.flatten(1, 2), "motion": motion.flatten(1, 2), **{f"attn.{k}": v for k, v in attention.items()}}


def patch_embeds(case: Case) -> Outputs:
    cross, overlap = take(case.weights(), "cross_scale."), take(case.weights(), "overlap.")
    channels, inputs = overlap["proj.weight"].shape[:2]
    tokens = load_strict(CrossScaleEmbed(len(cross["layers.0.weight"])), cross)(case.stacked("xs.{}"))
    last = load_strict(OverlapEmbed(inputs, channels), overlap)(tokens.permute(0, 3, 1, 2))
    return {
        "cross_scale.tokens": tokens.flatten(1, 2),
        "overlap.in": tokens.permute(0, 3, 1, 2),
        "overlap.tokens": last.flatten(1, 2),
    }


def flow_head(case: Case) -> Outputs:
    outputs: Outputs = {}
    for scale in (head["scale"] for head in case.config["heads"]):
        prefix = f"s{scale}."
        state = take(case.weights(), prefix)
        hidden, inputs = state["conv.0.0.weight"].shape[:2]
        flow = case.tensor(prefix + "flow") if prefix + "flow" in case.inputs else None
        head = load_strict(FlowHead(inputs, hidden, scale), state)
        estimate = head(case.tensor(prefix + "motion_feature"), case.tensor(prefix + "x"), flow)
        outputs[prefix + "flow"], outputs[prefix + "mask"] = estimate
    return outputs


def refine(case: Case) -> Outputs:
    names = ("img0", "img1", "warped_img0", "warped_img1", "mask", "flow")
    pictures = torch.cat([case.tensor(name) for name in names], 1)
    state = case.weights()
    unet = load_strict(RefineUNet(state["conv.weight"].shape[1]), state)
    return {"out": unet(pictures, case.stacked("c0.{}"), case.stacked("c1.{}"))}


def full(case: Case) -> Outputs:
    network, (image0, image1) = _network(case), _pair(case)
    features = network.features(image0, image1)
    stages = list(network.flow_stages(image0, image1, features, case.config["timestep"]))
    flow, mask = stages[-1]
    seen = _watch(network.unet)
    pred = network.render(image0, image1, flow, mask, features.appearance)
    pictures, first, second = seen.inputs
    return {
        **_numbered("af", features.appearance),
        **_numbered("mf", features.motion, start=len(features.appearance) - len(features.motion)),
        **_numbered("flow", [flow for flow, _ in stages]),
        **_numbered("mask_sigmoid", [torch.sigmoid(mask) for _, mask in stages]),
        "mask_logit": mask,
        f"merged.{len(stages) - 1}": blend(pictures[:, 6:9], pictures[:, 9:12], mask),
        **_numbered("c0", first),
        **_numbered("c1", second),
        "refine_out": seen.outputs,
        "pred": pred,
    }


def modes(case: Case) -> Outputs:
    """The reference's ways to call the network; those that find flow on smaller pictures are made of its parts."""
    network, (image0, image1) = _network(case), _pair(case)
    middle = MiddleFrame(network)(image0.flip(1), image1.flip(1)).flip(1)
    times = (0.25, 0.5, 0.8)

    def turned(predict: Predict, timestep: float) -> Tensor:
        pairs = [torch.cat([image, image.flip(2, 3)]) for image in (image0, image1)]
        upright, rotated = predict(network, *pairs, timestep).chunk(2)
        return (upright + rotated.flip(2, 3)) / 2

    return {
        "inference.plain": network(image0, image1),
        "inference.tta": turned(EmaVfi.forward, 0.5),
        "inference.fast_tta": middle,
        "inference.fast_tta_t": turned(EmaVfi.forward, 0.35),
        "hr_inference.plain": _half_size_first(network, image0, image1, 0.5),
        "hr_inference.fast_tta": turned(_half_size_first, 0.35),
        **_numbered("multi_inference.plain", [network(image0, image1, t)[0] for t in times]),
        **_numbered("multi_inference.fast_tta", [turned(EmaVfi.forward, t)[0] for t in times]),
        **_numbered("multi_inference.down_tta", [turned(_half_size_second, t)[0] for t in times]),
    }


def _half_size_first(network: EmaVfi, image0: Tensor, image1: Tensor, timestep: float) -> Tensor:
    with _one_mask_per_area(network):
        flow, mask = _half_size_flow(network, image0, image1, timestep)
        appearance = network.features(image0, image1).appearance
    return network.render(image0, image1, flow, mask, appearance)


def _half_size_second(network: EmaVfi, image0: Tensor, image1: Tensor, timestep: float) -> Tensor:
    with _one_mask_per_area(network):
        appearance = network.features(image0, image1).appearance
        flow, mask = _half_size_flow(network, image0, image1, timestep)
    return network.render(image0, image1, flow, mask, appearance)


def _half_size_flow(network: EmaVfi, image0: Tensor, image1: Tensor, timestep: float) -> tuple[Tensor, Tensor]:
    small = [resize(image, 0.5) for image in (image0, image1)]
    flow, mask = network.flow(*small, network.features(*small), timestep)
    return 2 * resize(flow, 2), resize(mask, 2)


@contextlib.contextmanager
def _one_mask_per_area(network: EmaVfi) -> Iterator[None]:
    """The reference's cache of masks, as it acts within one call on two sizes.

    A shifted block keeps its last mask for maps of the same padded area, whatever their content's size. The data was
    recorded with caches emptied before each call, so only calls that see two sizes (2x4 and 1x2 tokens are both padded
    to 7x7) hold the defect. The product has no such cache.
    """
    kept: dict[nn.Module, Tensor] = {}

    def reuse(attention: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, cor, mask = inputs
        if attention not in kept or len(kept[attention]) != len(mask):
            kept[attention] = mask
        return x, cor, kept[attention]

    shifted = [block.attn for block in network.modules() if isinstance(block, MotionBlock) and block.shift]
    hooks = [attention.register_forward_pre_hook(reuse) for attention in shifted]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def process(case: Case) -> Outputs:
    """The reference keeps one frame more than an even length needs, so its clips may be longer than asked for."""
    video = case.inputs["video"]
    height, width = video.shape[1:3]
    weights, (heads, window) = case.weights(), _structure(case)
    config = ema_vfi_config(ema_vfi_state(weights), heads, window)
    graph = InterpolatorGraphs(config, weights, ((width, height),)).interpolate(width, height)
    engine = EagerEngine(graph)
    seen = _watch(graph.module)
    outputs: Outputs = {}
    for length in (run["video_len"] for run in case.config["runs"]):
        kept = video[: length // 2 + 1]
        seen.calls.clear()
        num_frames = 2 * len(kept) - length % 2
        blocks = list(interpolate(np.array_split(kept, 2), engine, num_frames, cut=None))
        frames = np.concatenate(blocks)
        assert len(frames) == next(run["frames_out"] for run in case.config["runs"] if run["video_len"] == length)
        outputs[f"len{length}.frames"] = frames
        outputs[f"len{length}.mid_float_bgr"] = torch.cat([middle for _, middle in seen.calls]).flip(1)
        outputs[f"len{length}.resized_crop"] = _enlarged(frames, case.config["final_resize"])
    return outputs


def _enlarged(frames: np.ndarray, size: list[int]) -> np.ndarray:
    """The reference's last step, which the product leaves out: frames keep their size. Its top left corner."""
    height, width = frames.shape[1:3]
    return np.stack([np.asarray(Image.fromarray(frame).resize(tuple(size)))[:height, :width] for frame in frames])


class Watch:
    """What a module got and gave, call by call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any]] = []

    @property
    def inputs(self) -> Any:
        return self.calls[-1][0]

    @property
    def outputs(self) -> Any:
        return self.calls[-1][1]


def _watch(module: nn.Module) -> Watch:
    watch = Watch()

    def note(_: nn.Module, inputs: Any, outputs: Any) -> None:
        watch.calls.append((inputs, outputs))

    module.register_forward_hook(note)
    return watch


def _network(case: Case) -> EmaVfi:
    return load_ema_vfi(case.weights(), *_structure(case))


def _structure(case: Case) -> tuple[tuple[int, int], int]:
    """What the weights do not tell: heads and window."""
    first, second = case.config["backbone"]["num_heads"]
    return (first, second), case.config["W"]


def _pair(case: Case) -> tuple[Tensor, Tensor]:
    return case.tensor("img0"), case.tensor("img1")


def _numbered(name: str, values: Any, start: int = 0) -> Outputs:
    return {f"{name}.{i}": value for i, value in zip(itertools.count(start), values, strict=False)}


COMPUTE: Mapping[str, Callable[[Case], Outputs]] = {
    "warp": warping,
    "motionformer_block": block,
    "patch_embeds": patch_embeds,
    "flow_head": flow_head,
    "refine_unet": refine,
    "ema_vfi_full": full,
    "ema_vfi_inference_modes": modes,
    "vfi_process": process,
}
ADAPTERS = {f"vfi.{component}": Adapter(compute) for component, compute in COMPUTE.items()}
