"""The enhancer MS-Vid2Vid-XL: network, schedule, solver, blending and the pictures at both ends."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from golden.cases import Adapter, Case
from golden.taps import tapped
from stt2v.engine.backends.base import Array
from stt2v.engine.blend import window_starts
from stt2v.engine.dpm_solver import CosineSchedule, dpm_table, solver_k_sigmas
from stt2v.engine.media.canvas import content, fitted_size, on_canvas
from stt2v.engine.media.image import model_image
from stt2v.engine.models.vid2vid import Vid2VidSettings
from stt2v.engine.noise import Noise
from stt2v.engine.stages.decode import to_uint8
from stt2v.engine.stages.vid2vid import Vid2Vid
from stt2v.engine.stages.windows import State
from stt2v.export.eager import EagerEngine
from stt2v.export.graph import Graph
from stt2v.export.models.streaming_t2v_steps import TextConstants, TextNetwork
from stt2v.export.models.vid2vid import Vid2VidUNet
from stt2v.export.step import Network, Step, UpdateRule
from stt2v.export.weights.vid2vid import load_unet


def frames_second(video: Any) -> Any:
    """[..., C, F, h, w], as the reference stores clips, to [..., F, C, h, w] and back."""
    return video.swapaxes(-4, -3)


def network(case: Case, config: Mapping[str, Any]) -> Vid2VidUNet:
    return load_unet(case.weights(), config["head_dim"])


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


class Replay(Noise):
    """The case's noise of the steps, frame by frame, and its offsets, in place of the product's own."""

    def __init__(self, case: Case) -> None:
        super().__init__(0)
        self.noise = case.outputs["unit_noise"]
        self.offsets = case.outputs["offsets"].reshape(case.config["steps"], -1)

    def normal(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        assert stage == "enhance_step"
        return frames_second(self.noise[step])[0, chunk]

    def integers(self, stage: str, chunk: int, step: int, low: int, high: int) -> int:
        offset = int(self.offsets[step, chunk - 1])  # the first window is never cut, and has none
        assert low <= offset < high
        return offset


def sampled(case: Case, network: Network, conditions: Graph, text: Array, noisy: Array, start: int) -> dict[str, Any]:
    """Run the enhancer over a clip that is noised already. text: what `conditions` takes; noisy: [frames, C, h, w]."""
    config = case.config
    window = config["chunk_size"]
    latents = {name: torch.zeros(window, *noisy.shape[1:]) for name in ("x", "noise", "x0_previous")}
    context = conditions.module(torch.from_numpy(text))
    inputs = {"guidance": torch.ones(window), "coefficients": torch.zeros(8), **latents, "context": context}
    rule = UpdateRule(noise=True, previous=True, rescale=config["guide_rescale"])
    step = Graph(f"enhance_{window}_step", Step(network, rule), inputs, ("x_next", "x0"))
    engines = {graph.name: EagerEngine(graph) for graph in (conditions, step)}
    settings = Vid2VidSettings(window, config["overlap_size"], config["steps"], start, config["guide_scale"])
    enhancer = Vid2Vid(engines, text, Replay(case), settings=settings)
    clip = enhancer.begin(window_starts(len(noisy), window, settings.overlap))
    table = dpm_table(settings.schedule, settings.steps, start)
    state = State(enhancer.scaled(noisy), np.zeros_like(noisy))
    estimates, seen = [], []
    for index in range(settings.steps):
        seen.append(np.asarray(state.latents) * table[index, 0])
        before, state = state, State(np.empty_like(noisy), np.empty_like(noisy))
        clip.run(index, before, state)
        estimates.append(state.clean)
    return {
        "k_sigmas": solver_k_sigmas(settings.schedule, settings.steps, start),
        "offsets": case.outputs["offsets"],
        "unit_noise": case.outputs["unit_noise"],
        "x": frames_second(state.latents)[None],
        "x0_blended": frames_second(np.stack(estimates))[:, None],
        "model_input": frames_second(np.stack(seen))[:, None],
    }


def sampler_unet(case: Case) -> Mapping[str, Any]:
    net = network(case, case_config_of_weights(case))
    text = np.concatenate([case.inputs["negative_y"], case.inputs["y"]])
    noisy = frames_second(case.inputs["noise"])[0]
    return sampled(case, TextNetwork(net), conditions_of(TextConstants(net), text), text, noisy, case.config["t_max"])


def conditions_of(module: nn.Module, text: Array) -> Graph:
    return Graph("enhance_conditions", module, {"text": torch.from_numpy(text)}, ("context",))


def case_config_of_weights(case: Case) -> Mapping[str, Any]:
    """The configuration of the case whose weights this one uses; head widths are there."""
    return Case((case.folder / case.config.get("weights_path", "weights.safetensors")).parent).config


class ToyNetwork(Network):
    """The network that the case describes in words."""

    def forward(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        wave = torch.cos(0.5 * torch.arange(x.shape[1], dtype=torch.float32))
        added = conditions["context"][:, None] * wave
        return 0.6 * x + 0.3 * torch.sin(2 * x + timestep / 500) + added[..., None, None, None]


class AsItIs(nn.Module):
    """Tells the network the text itself."""

    def forward(self, text: Tensor) -> Tensor:
        return text


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
    result = sampled(case, ToyNetwork(), conditions_of(AsItIs(), halves), halves, noisy, timestep)
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
