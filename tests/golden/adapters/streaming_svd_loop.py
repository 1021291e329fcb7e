"""StreamingSVD's sampler and its autoregressive loop: the product's loop around eager graphs."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from golden.adapters.streaming_svd import control_of, network_of, step_conditions, tower_of, unet_of
from golden.cases import EXACT, Adapter, Case, Limit, part
from stt2v.engine.backends.base import Array, Value, Values
from stt2v.engine.loop import Loop
from stt2v.engine.media.image import fit_image, size_at_height
from stt2v.engine.models.model import Denoising, Model
from stt2v.engine.models.streaming_svd import STREAMING_SVD, MicroConditions, StreamingSvdConditions
from stt2v.engine.noise import Noise
from stt2v.engine.plan import plan_chunks
from stt2v.engine.schedules import SCHEDULES
from stt2v.engine.sigmas import align_your_steps, scaling
from stt2v.engine.stages.decode import from_uint8, to_uint8
from stt2v.engine.stages.denoise import FusedStep, Trajectory, denoise
from stt2v.export.eager import EagerEngine
from stt2v.export.families.steps import OUTPUTS
from stt2v.export.families.streaming_svd import RULE, Config, Networks, graphs
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.models.streaming_unet import embed_vector
from stt2v.export.step import Step, Update
from stt2v.export.weights.streaming_svd import IMAGE_ENCODER, load_decoder, load_image_encoder

Outputs = Mapping[str, Any]

SCHEDULE = "align-your-steps"
GUIDANCE_ALONE = (0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0)  # coefficients with which x0 is the guided prediction


def sampler(case: Case) -> Outputs:
    config = case.config
    limits = config["min_scale"], config["max_scale"]
    outputs: dict[str, Any] = {}
    for steps in config["schedule_lengths"]:
        sigmas = align_your_steps(steps)
        outputs |= {f"sigmas_n{steps}_f64": sigmas, f"sigmas_n{steps}": sigmas.astype(np.float32)}
    names = ("c_in", "c_noise", "c_skip", "c_out")
    scales = scaling(case.inputs["scaling_sigmas"].astype(np.float64))
    outputs |= {f"scaling_{name}": scale for name, scale in zip(names, scales, strict=True)}
    for frames in config["guider_lengths"]:
        outputs[f"guider_scale_F{frames}"] = guidance(limits, frames)[None]
    uncond, cond = case.tensor("guider_x").chunk(2)
    guide = torch.from_numpy(guidance(limits, len(cond)))
    outputs["guided_example"] = Update(RULE)(cond, uncond, cond, guide, torch.tensor(GUIDANCE_ALONE))[1]
    toy_inputs = {"target": toy_target(case)}
    for steps in config["toy_steps"]:
        latents, denoised = trajectory(case, ToyNetwork(), toy_inputs, steps)
        outputs |= {f"toy_n{steps}.latents": latents, f"toy_n{steps}.guided_denoised": denoised}
    network = network_of(case, config["network"])
    rows = (zeros_before(case.tensor(f"net.{name}")) for name in ("concat_c", "crossattn_c"))
    vector = case.tensor("net.vector").repeat(2, 1)
    conditions = step_conditions(network, *rows, vector, case.tensor("net.ctrl_frames")[0])
    for steps in config["network_steps"]:
        latents, _ = trajectory(case, network, conditions, steps)
        expected = case.outputs[f"net_n{steps}.latents"]
        outputs[f"net_n{steps}.latents"] = latents[-len(expected) :]
        violations = [Limit().violation(*pair) for pair in zip(latents[-len(expected) :], expected, strict=True)]
        assert not any(violations), violations  # at the scale of each step, not of the largest
    return outputs


def guidance(limits: tuple[float, float], frames: int) -> Array:
    return np.linspace(*limits, frames, dtype=np.float32)


def zeros_before(cond: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(cond), cond])


class ToyNetwork(nn.Module):
    """A prediction v with which x0 is x / (1 + s^2) + s^2 / (1 + s^2) * target."""

    def forward(self, x: Tensor, timestep: Tensor, target: Tensor) -> Tensor:
        sigma = torch.exp(4 * timestep)
        return -sigma * torch.rsqrt(sigma**2 + 1) * target + 0 * x


def toy_target(case: Case) -> Tensor:
    halves = [
        case.tensor(f"toy.concat_{half}") + 0.1 * case.tensor(f"toy.vector_{half}").mean(1)[:, None, None, None]
        for half in ("uc", "c")
    ]
    return torch.stack(halves)


@dataclass(frozen=True)
class RecordedStep:
    """A step that keeps its x0."""

    step: FusedStep
    denoised: list[Value] = field(default_factory=list)

    def __call__(self, *inputs: Any) -> tuple[Value, Value]:
        x, x0 = self.step(*inputs)
        self.denoised.append(x0)
        return x, x0


def trajectory(case: Case, network: nn.Module, conditions: Mapping[str, Tensor], steps: int) -> tuple[Array, Array]:
    """Latents before and after each step, [steps + 1, F, C, h, w], and the guided denoised ones, [steps, ...]."""
    schedule = SCHEDULES[SCHEDULE](steps)
    start = case.inputs["initial_noise"] * np.float32(schedule.initial_scale)
    guide = guidance((case.config["min_scale"], case.config["max_scale"]), len(start))
    first = {"x": start, "guidance": guide, "coefficients": schedule.table[0].astype(np.float32)}
    inputs = {name: torch.from_numpy(value) for name, value in first.items()} | dict(conditions)
    step = RecordedStep(FusedStep(EagerEngine(Graph("step", Step(network, RULE), inputs, OUTPUTS))))
    latents: list[Value] = [start]

    def keep(_index: int, _timestep: float, x: Value) -> Value:
        latents.append(x)
        return x

    arrays = {name: value.numpy() for name, value in conditions.items()}
    denoise(step, start, arrays, Trajectory(schedule.table, guide, "latents", 0), Noise(0), keep)
    return np.stack(latents), np.stack(step.denoised)


class RecordedNoise(Noise):
    """The case's stored noise in place of the product's own."""

    def __init__(self, case: Case) -> None:
        super().__init__(0)
        self.case = case

    def normal(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        return self.case.inputs[f"noise.latent.{chunk - 1}"].reshape(shape)

    def uniform(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        return self.case.inputs[f"noise.cond_aug_uniform.{chunk - 1}"].reshape(shape)


class RecordedEngine:
    """An eager graph that keeps what it was given and what it returned."""

    def __init__(self, graph: Graph) -> None:
        self.engine = EagerEngine(graph)
        self.spec = self.engine.spec
        self.seen: dict[str, Value] = {}

    def run(self, inputs: Values) -> dict[str, Value]:
        outputs = self.engine.run(inputs)
        self.seen |= {**inputs, **outputs}
        return outputs

    def close(self) -> None:
        self.engine.close()


class RecordedEngines(Mapping[str, RecordedEngine]):
    """The engines of a model, made when first asked for."""

    def __init__(self, makers: Mapping[str, GraphMaker]) -> None:
        self.makers = makers
        self.made: dict[str, RecordedEngine] = {}

    def __getitem__(self, name: str) -> RecordedEngine:
        if name not in self.made:
            self.made[name] = RecordedEngine(self.makers[name]())
        return self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.makers)

    def __len__(self) -> int:
        return len(self.makers)


def autoregressive_loop(case: Case) -> Outputs:
    check_plan(case)
    first = from_uint8(case.inputs["svd_pipeline_frames_u8"].transpose(0, 3, 1, 2))
    model = model_of(case, first)
    networks = networks_of(case)
    config = Config(model.chunk, model.conditional, model.height, model.width, model.decode_group)
    engines = RecordedEngines(graphs(networks, config))
    noise = RecordedNoise(case)
    anchor = first[model.anchor][None]
    micro = MicroConditions(*(case.config[name] for name in ("fps_id", "motion_bucket_id", "cond_aug")))
    outputs: dict[str, Any] = {}
    kept = [first]
    before = first
    for k in range(case.config["n_autoregressive_generations"]):
        control = before[-model.conditional :]
        latents: dict[int, Value] = defaultdict()
        loop = Loop(
            model,
            engines,
            StreamingSvdConditions(engines, anchor, noise, micro),
            noise,
            model.streaming,
            lambda _chunk, index, _timestep, x, latents=latents: latents.setdefault(index, x),
        )
        samples = loop.next_chunk(k + 1, control, anchor)
        kept.append(samples[model.conditional :])
        before = case.outputs[f"chunk.{k}.samples_before_discard"][model.conditional :]
        vector = torch.as_tensor(engines["conditions"].seen["vector"])[None]
        chunk = {
            "svd_input_frame": anchor[0],
            "ctrl_frames": control[None],
            "c.crossattn": engines["image_encoder"].seen["embedding"],
            "c.concat": engines["vae_encode"].seen["latent"],
            "c.vector": embed_vector(vector, networks.unet.spec.label_width).expand(model.chunk, -1),
            "sampled_latents": latents[model.streaming.steps - 1],
            "samples_before_discard": samples,
        }
        outputs |= {f"chunk.{k}.{name}": value for name, value in chunk.items()}
    return {**outputs, **pictures(case), "video_u8": np.concatenate([to_uint8(frames) for frames in kept])}


def model_of(case: Case, first: Array) -> Model:
    """The product's model at the size of the case, of which `first` is the first chunk."""
    config = case.config
    steps = Denoising(SCHEDULE, config["num_steps"], STREAMING_SVD.streaming.guidance)
    return replace(
        STREAMING_SVD,
        chunk=len(first),
        conditional=config["num_conditional_frames"],
        anchor=config["anchor_frame"],
        height=first.shape[2],
        width=first.shape[3],
        streaming=steps,
        downscale=first.shape[2] // case.inputs["noise.latent.0"].shape[2],
    )


def networks_of(case: Case) -> Networks:
    config = case.config
    unet = unet_of(case, "weights_unet", config)
    conditioner = case.weights("weights_conditioner")
    return Networks(
        first_unet=unet,  # stands in: the first chunk is given
        unet=unet,
        control=control_of(case, "weights_controlnet", config),
        tower=tower_of(conditioner, config.get("conditioner", {})),
        image_encoder=load_image_encoder(part(conditioner, IMAGE_ENCODER)),
        decoder=load_decoder(case.weights("weights_first_stage_decoder")),
    )


def pictures(case: Case) -> Outputs:
    """The input image at the model's size, and how values become pictures and back."""
    picture = Image.fromarray(case.inputs["input_image_u8"])
    resized = fit_image(picture, *case.config["resized_input_size_wh"], "crop")[0]
    crop = case.outputs["resized_input_crop_u8"].shape
    values = case.inputs["table.float_values"]
    levels = np.arange(256, dtype=np.uint8)
    return {
        "resized_input_crop_u8": resized[: crop[0], : crop[1]],
        "table.levels_roundtrip_u8": to_uint8(from_uint8(levels)[None, None, None]).ravel(),
        "table.float_to_u8": to_uint8(values[None, None, None]).ravel(),
        "table.ctrl_identity_f32": values,
    }


def check_plan(case: Case) -> None:
    """The tables in config.json: frames and chunks at full size, and the sizes of fitted images."""
    table = case.config["chunk_table_full_size"]
    for row in table["rows"]:
        chunks = plan_chunks(row["requested"], table["frames_per_generation"], table["num_conditional_frames"])
        generated = chunks[-1].stop
        assert len(chunks) - 1 == max(row["n_autoregressive_generations"], 0), row
        assert (generated, min(generated, row["requested"])) == (row["generated"], row["returned"]), row
    for row in case.config["resize_and_keep_sizes_wh"]:
        assert list(size_at_height(tuple(row["input"]), row["output"][1])) == row["output"], row


ADAPTERS = {
    "streaming_svd.sampler": Adapter(
        sampler,
        {
            "sigmas_*_f64": Limit(rel=None, absolute=1e-9),
            "sigmas_*": Limit(rel=1e-6),
            "scaling_*": Limit(rel=1e-6),
            "guide*": Limit(rel=1e-6),
            "toy_*": Limit(rel=1e-5),
        },
    ),
    "streaming_svd.autoregressive_loop": Adapter(
        autoregressive_loop,
        {
            "*.samples_before_discard": Limit(rel=None, absolute=1e-3),
            "*.sampled_latents": Limit(rel=1e-3),
            "table.*_u8": EXACT,
            "resized_input_crop_u8": EXACT,
        },
    ),
}
