"""The enhancer MS-Vid2Vid-XL: network, schedule, solver, blending and the pictures at both ends."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golden.cases import Adapter, Case
from golden.taps import tapped
from stt2v.engine.backends.base import Array
from stt2v.engine.blend import window_starts
from stt2v.engine.dpm_solver import CosineSchedule, dpm_table, solver_k_sigmas
from stt2v.engine.media.canvas import content, fitted_size, on_canvas
from stt2v.engine.media.image import model_image
from stt2v.engine.stages.decode import to_uint8
from stt2v.engine.stages.shared_windows import SharedWindows
from stt2v.engine.stages.windows import BlendedClip
from stt2v.export.models.streaming_t2v_steps import TextConstants, TextNetwork
from stt2v.export.models.vid2vid import Vid2VidUNet
from stt2v.export.step import Network, Step, UpdateRule
from stt2v.export.weights.vid2vid import load_unet


def frames_second(video: Any) -> Any:
    """[..., C, F, h, w], as the reference stores clips, to [..., F, C, h, w] and back."""
    return video.swapaxes(-4, -3)


def network(case: Case, config: Mapping[str, Any]) -> Vid2VidUNet:
    return load_unet(case.weights("weights_path"), config["head_dim"])


def unet(case: Case) -> Mapping[str, Any]:
    net = network(case, case.config)
    video = frames_second(case.tensor("x"))
    middle = net.mid_block
    parts = {"init_temporal": net.transformer_in, "mid_resblock": middle.temp_convs[0]}
    parts |= {"mid_spatial": middle.attentions[0], "mid_temporal": middle.temp_attentions[0]}
    with tapped(parts) as outputs:
        context = TextConstants(net)(case.tensor("y"))
        out = net(video.flatten(0, 1), video.shape[1], case.tensor("t"), context)
    features = {name: output[0] if isinstance(output, tuple) else output for name, output in outputs.items()}

    def clips(frames: Tensor) -> Tensor:
        return frames_second(frames.unflatten(0, video.shape[:2]))

    temporal = {name: clips(features[name]) for name in ("init_temporal", "mid_temporal")}
    return {**features, **temporal, "out": clips(out)}


def schedule(case: Case) -> Mapping[str, Any]:
    config = case.config
    noise = CosineSchedule(config["n"], config["logsnr_max"], config["scale_min"], config["scale_max"])
    probes = noise.k_sigmas(case.outputs["probe_t"].astype(np.float64))
    return {
        "schedule_sigmas": noise.sigmas(),
        "schedule_alphas": noise.alphas(),
        "k_sigmas": solver_k_sigmas(noise, config["steps"], config["t_max"]),
        "model_timesteps": dpm_table(noise, config["steps"], config["t_max"])[:, 1].astype(np.int64),
        "probe_t": case.outputs["probe_t"],
        "probe_t_to_sigma": probes,
        "probe_sigma_to_t": noise.times(probes),
    }


@dataclass
class EagerStep:
    """A guidance pair and its update in PyTorch."""

    network: Network
    rule: UpdateRule

    def __call__(
        self, x: Array, coefficients: Array, guidance: Array, conditions: Mapping[str, Any], updates: Mapping[str, Any]
    ) -> tuple[Array, Array]:
        arrays = {"x": x, "coefficients": coefficients, "guidance": guidance, **conditions, **updates}
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
        x_next, x0 = Step(self.network, self.rule)(**tensors)
        return x_next.numpy(), x0.numpy()


def sampled(case: Case, network: Network, conditions: Mapping[str, Any], noisy: Array, start: int) -> dict[str, Any]:
    """Run the sampler over a clip in randomly blended windows. noisy: [frames, C, h, w]."""
    config, noise = case.config, case.outputs["unit_noise"]
    table = dpm_table(CosineSchedule(), config["steps"], start)
    k_sigmas = solver_k_sigmas(CosineSchedule(), config["steps"], start)
    window = config["chunk_size"]
    starts = window_starts(len(noisy), window, config["overlap_size"])
    offsets = case.outputs["offsets"].reshape(config["steps"], -1)
    latents, clean = (noisy * k_sigmas[0]).astype(np.float32), np.zeros_like(noisy)
    rule = UpdateRule(noise=True, previous=True, rescale=config["guide_rescale"])
    step = EagerStep(network, rule)
    guidance = np.full(window, config["guide_scale"], np.float32)

    def unit_noise(step: int, first: int, count: int) -> Array:
        return frames_second(noise[step])[0, first : first + count]

    runner = SharedWindows(step, table, guidance, conditions, starts, clean, unit_noise)
    from_zero = np.pad(offsets, ((0, 0), (1, 0)))  # the first window is never cut
    clip = BlendedClip(latents, clean, window, starts, from_zero, runner)
    estimates, seen = [], []
    for index in range(config["steps"]):
        seen.append(latents * table[index, 0])
        next(clip.run(index))
        estimates.append(clean.copy())
    return {
        "k_sigmas": k_sigmas,
        "offsets": case.outputs["offsets"],
        "unit_noise": noise,
        "x": frames_second(latents)[None],
        "x0_blended": frames_second(np.stack(estimates))[:, None],
        "model_input": frames_second(np.stack(seen))[:, None],
    }


def sampler_unet(case: Case) -> Mapping[str, Any]:
    net = network(case, case_config_of_weights(case))
    text = torch.cat([case.tensor("negative_y"), case.tensor("y")])
    context = TextConstants(net)(text).numpy()
    noisy = frames_second(case.inputs["noise"])[0]
    return sampled(case, TextNetwork(net), {"context": context}, noisy, case.config["t_max"])


def case_config_of_weights(case: Case) -> Mapping[str, Any]:
    """The configuration of the case whose weights this one uses; head widths are there."""
    return Case((case.folder / case.config["weights_path"]).parent).config


class ToyNetwork(Network):
    """The network that the case describes in words."""

    def forward(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        wave = torch.cos(0.5 * torch.arange(x.shape[1], dtype=torch.float32))
        added = conditions["y"][:, None] * wave
        return 0.6 * x + 0.3 * torch.sin(2 * x + timestep / 500) + added[..., None, None, None]


def forward_toy(case: Case) -> Mapping[str, Any]:
    config, scale = case.config, np.float32(case.config["latent_scale"])
    pictures, noise = case.inputs["video_data"], case.outputs["diffuse_noise"]
    count, _, height, width = pictures.shape
    blocks = pictures.reshape(count, 3, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
    clean = np.einsum("dc,fchw->fdhw", case.inputs["enc"], blocks) * scale
    timestep = config["total_noise_levels"] - 1
    schedule = CosineSchedule()
    alpha, sigma = (values[timestep] for values in (schedule.alphas(), schedule.sigmas()))
    noisy = (alpha * clean + sigma * frames_second(noise)[0]).astype(np.float32)
    halves = np.stack([case.inputs["negative_y"], case.inputs["y"]]).astype(np.float32)
    result = sampled(case, ToyNetwork(), {"y": halves}, noisy, timestep)
    latents = frames_second(result["x"])[0] / scale
    decoded = np.einsum("dc,fchw->fdhw", case.inputs["dec"], latents).repeat(2, axis=2).repeat(2, axis=3)
    return {
        **result,
        "t": np.array([timestep]),
        "diffuse_noise": noise,
        "latent_clean": frames_second(clean)[None],
        "latent_noised": frames_second(noisy)[None],
        "video": frames_second(decoded)[None],
    }


def prepost(case: Case) -> Mapping[str, Any]:
    canvas = tuple(case.config["upscale_size_w_h"])
    picture = case.inputs["image"].astype(np.uint8)
    padded = on_canvas(picture, canvas)
    size = fitted_size((picture.shape[1], picture.shape[0]), canvas)
    decoded = frames_second(case.inputs["decoded"])[0]
    return {
        "resized": content(padded, size).astype(np.float32),
        "padded": padded.astype(np.float32),
        "normalised": model_image(padded),
        "tensor2vid": to_uint8(decoded).astype(np.float32),
        "trim_table": np.array([(*row[:3], *trimmed(*row[:3])) for row in case.outputs["trim_table"].tolist()]),
    }


def trimmed(frames: int, window: int, overlap: int) -> tuple[int, int]:
    """Whole windows in a clip and the frames they cover, as the reference trims it (-1: too short).

    The product covers every frame instead: its last window starts where it has to.
    """
    windows = (frames - overlap) // (window - overlap)
    length = windows * (window - overlap) + overlap
    if length < window:
        return windows, -1
    starts = window_starts(length, window, overlap)
    assert len(starts) == windows
    assert starts[-1] + window == length
    return windows, length


ADAPTERS = {
    "vid2vid.unet": Adapter(unet),
    "vid2vid.schedule": Adapter(schedule),
    "vid2vid.sampler_unet": Adapter(sampler_unet),
    "vid2vid.forward_toy": Adapter(forward_toy),
    "vid2vid.prepost": Adapter(prepost),
}
