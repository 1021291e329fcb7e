"""StreamingT2V: its modules, networks and recorded runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from golden.cases import Adapter, Case, Limit
from stt2v.engine.backends.base import Array
from stt2v.engine.ddim import Schedule, ddim_table
from stt2v.engine.models.streaming_t2v import StreamingT2vConditions
from stt2v.engine.noise import Noise
from stt2v.engine.solver import COEFFICIENTS
from stt2v.engine.stages.decode import decode
from stt2v.engine.stages.denoise import FusedStep, Trajectory, denoise
from stt2v.export.eager import EagerEngine
from stt2v.export.families.streaming_t2v import TOY, Config, Networks, graphs
from stt2v.export.graph import Graph
from stt2v.export.models.image_encoder import ClipPreprocessing
from stt2v.export.models.modelscope_unet import KeysValues, ProjectedAttention
from stt2v.export.models.streaming_t2v import AppearanceMix, StreamingUNet
from stt2v.export.models.streaming_t2v_steps import AnchorTokens, TextConstants
from stt2v.export.weights.base import load_strict, take
from stt2v.export.weights.i2vgen_xl import load_component
from stt2v.export.weights.streaming_svd import load_cam
from stt2v.export.weights.streaming_t2v import load_control_net, load_image_tokens, load_unet


def frames_first(video: Tensor) -> Tensor:
    """[B, C, F, h, w], as the reference stores clips, -> [(B F), C, h, w]."""
    return video.transpose(1, 2).flatten(0, 1)


def cam(case: Case) -> Mapping[str, Any]:
    sample, conditioning = case.tensor("sample"), case.tensor("conditioning")
    merger = load_cam(case.weights(), case.config["head_dim"])
    merged = merger(sample.flatten(0, 1), conditioning.flatten(0, 1), sample.shape[1])
    return {"out": merged.reshape(sample.shape)}


def apm(case: Case) -> Mapping[str, Any]:
    weights, text, hidden = case.weights(), case.tensor("text"), case.tensor("hidden")
    embeddings = case.tensor("img_emb_flat").reshape(len(text), -1, text.shape[2])
    image_tokens = load_image_tokens(take(weights, "resampler."))(embeddings)
    own = take(weights, "attn2.")
    mixing = {key: tensor for key, tensor in own.items() if key.startswith(("conv", "alpha"))}
    mix = load_strict(AppearanceMix(text.shape[1], image_tokens.shape[1], text.shape[2]), mixing)
    normalised = recorded(mix.conv_ln)
    context = mix(torch.cat([text, image_tokens], dim=1))
    attn2 = attention(case, {key: tensor for key, tensor in own.items() if key not in mixing}, text.shape[2])
    keys_values = KeysValues(attn2)(context)
    attn2.set_processor(ProjectedAttention())
    return {
        "image_tokens": image_tokens,
        "ln_out_every16": normalised[-1][:, ::16],
        "mixed_context_every16": context[:, ::16],
        "attn2_out": attn2(hidden, encoder_hidden_states=keys_values),
        "attn1_out": attention(case, take(weights, "attn1."), None)(hidden),
    }


def attention(case: Case, weights: Mapping[str, Tensor], context_width: int | None) -> Attention:
    heads = case.config["heads"]
    width = len(weights["to_q.weight"])
    made = Attention(width, context_width, heads=heads, dim_head=width // heads)
    return load_strict(made, weights)


def unet3d(case: Case) -> Mapping[str, Any]:
    unet = main_unet(case, case.weights())
    video = case.tensor("sample")
    clips, _, frames = video.shape[:3]
    context = TextConstants(unet)(case.tensor("encoder_hidden_states"))
    control = case.stacked("down_{}"), case.tensor("mid")
    inputs = (frames_first(video), frames, case.tensor("timestep").reshape(-1), context)
    plain = unet(*inputs)
    # The decoder's features are those of the call with control; the ones before it are the same in both.
    watched = {"conv_in": unet.conv_in, "transformer_in": unet.transformer_in}
    watched |= {"mid_block": unet.mid_block, "up_block_0": unet.up_blocks[0]}
    outputs = {name: recorded(module) for name, module in watched.items()}
    merged = unet(*inputs, control)
    samples = {"sample": merged, "sample_no_control": plain}
    return {
        **{name: sample.unflatten(0, (clips, frames)).transpose(1, 2) for name, sample in samples.items()},
        **{name: output[-1] for name, output in outputs.items() if output},  # one frame skips `transformer_in`
    }


def main_unet(case: Case, weights: Mapping[str, Tensor]) -> StreamingUNet:
    return load_unet(weights, case.config["attention_head_dim"], case.config["cam_head_dim"])


def controlnet(case: Case) -> Mapping[str, Any]:
    net = load_control_net(case.weights(), case.config["attention_head_dim"])
    video, text = case.tensor("sample"), case.tensor("encoder_hidden_states")
    frames = len(case.tensor("controlnet_cond")) // len(video)
    outputs = {"transformer_in": recorded(net.transformer_in)}
    embedding = net.frame_encoder(case.tensor("controlnet_cond"))
    # The image tokens are for the main UNet alone.
    context = TextConstants(net)(text[:, :77])
    sample = frames_first(video[:, :, :frames])
    down, mid = net(sample, frames, case.tensor("timestep").reshape(-1), context, embedding)
    features = {f"down_{index}": feature for index, feature in enumerate(down)}
    return {**features, "mid": mid, "cond_embedding": embedding, "transformer_in": outputs["transformer_in"][-1]}


def recorded(module: nn.Module) -> list[Tensor]:
    """What `module` (or the parts of which it is only the list) returns from now on, in the order of the calls."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    module.register_forward_hook(keep)
    for part in module.children():
        for entry in part if isinstance(part, nn.ModuleList) else ():
            entry.register_forward_hook(keep)
    return outputs


def image_preprocess(case: Case) -> Mapping[str, Any]:
    result: dict[str, Tensor] = {}
    for name in case.inputs:
        repeat = int(name.rsplit("repeat", 1)[1])
        image = case.tensor(name).repeat_interleave(repeat, 2).repeat_interleave(repeat, 3)
        pixels = ClipPreprocessing(*image.shape[-2:], case.config["output_size"][0])(image)
        result[f"{name}_rows"] = pixels[:, :, :: case.config["rows_step"]]
        result[f"{name}_mean"] = pixels.mean(dim=(0, 2, 3))
        result[f"{name}_std"] = pixels.std(dim=(0, 2, 3))
    return result


def noise_generator(case: Case) -> Mapping[str, Any]:
    """Mixed noise, a shared frame plus fresh ones: restated here, as neither the shipped configuration nor we use it.

    Draws are recorded with their spreads, alpha / sqrt(1 + alpha^2) and 1 / sqrt(1 + alpha^2).
    """
    shared = case.outputs["shared_call0_draws"][0]
    result: dict[str, Any] = {}
    for name in (name for name in case.outputs if name.endswith("_draws")):
        draws = case.outputs[name]
        shape = case.outputs[name.replace("_draws", "_noise")].shape
        axis = next(axis for axis, size in enumerate(draws.shape[1:]) if size != shape[axis])
        first, fresh = (shared if len(draws) == shape[axis] else draws[0]), draws[-shape[axis] :]
        result[name] = draws
        result[name.replace("_draws", "_noise")] = first + np.concatenate(fresh, axis)
    return result


class RecordedNoise(Noise):
    """The case's stored noise in place of the product's own."""

    def __init__(self, case: Case) -> None:
        super().__init__(0)
        self.case = case

    def normal(self, stage: str, chunk: int, step: int, shape: tuple[int, ...]) -> Array:
        if step:
            return self.case.outputs[f"g{chunk}_s{step - 1}_variance_noise"]
        return self.case.outputs[f"g{chunk}_init_noise"][0].swapaxes(0, 1)


class ToyEncoder(nn.Module):
    """The image encoder that the case describes in words: 2x2 means, then a linear layer."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.proj = load_strict(nn.Linear(*weights["weight"].shape[::-1]), weights)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(functional.adaptive_avg_pool2d(image, 2).flatten(1))[:, None]


@dataclass(frozen=True)
class RecordedStep:
    """A step that keeps what the guided prediction was."""

    step: FusedStep
    guided: list[Array]

    def __call__(self, x: Array, coefficients: Array, *inputs: Any) -> tuple[Array, Array]:
        x_next, x0 = self.step(x, coefficients, *inputs)
        c = dict(zip(COEFFICIENTS, coefficients, strict=True))
        self.guided.append((np.asarray(x0) - c["c_skip"] * np.asarray(x)) / c["c_out"])
        return np.asarray(x_next), np.asarray(x0)


def denoise_loop(case: Case) -> Mapping[str, Any]:
    video, text = case.inputs["video"], [case.inputs["negative_text_embeds"], case.inputs["text_embeds"]]
    engines = engines_of(case)
    conditional = case.config["num_control_frames"]
    outputs: dict[str, Any] = {}
    before, kept = video, [video]
    for number in range(1, case.config["n_autoregressive_generations"]):
        conditions = StreamingT2vConditions(engines, [np.concatenate(text)])
        control, anchor = before[-conditional:] * 2 - 1, video[:1] * 2 - 1
        outputs |= {f"g{number}_control_frames": control[None], f"g{number}_anchor_frames": anchor[None]}
        made = generation(case, engines, number, conditions.streaming(number, control, anchor))
        uncond, cond = np.asarray(engines["anchor"].run({"anchor": anchor})["image_tokens"])
        made |= {"image_tokens_uncond": uncond[None], "image_tokens_cond": cond[None]}
        outputs |= {f"g{number}_{name}": value for name, value in made.items()}
        kept.append(made["chunk"][conditional:])
        before = case.outputs[f"g{number}_chunk"]
    saved = np.trunc(255 * np.clip(np.concatenate(kept), 0, 1))
    differing = (saved != case.outputs["saved_video_uint8_values"]).mean()
    assert differing <= Limit().share, f"{differing:.2%} of the levels differ"
    return {**outputs, "saved_video_uint8_values": saved}


def engines_of(case: Case) -> dict[str, EagerEngine]:
    """The engines of a streaming chunk, with the case's networks and its toy image encoder."""
    weights, (frames, _, height, width) = case.weights(), case.inputs["video"].shape
    tokens = load_image_tokens(take(weights, "resampler."))
    unet = main_unet(case, case.weights("weights_of_unet"))
    networks = Networks(
        first_unet=unet,  # stands in: the first chunk and the texts are given
        unet=unet,
        control=load_control_net(case.weights("weights_of_controlnet"), case.config["attention_head_dim"]),
        image_tokens=tokens,
        tower=CLIPVisionModelWithProjection(CLIPVisionConfig(**TOY.tower)),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TOY.text_encoder)),
        vae=load_component("vae", case.config["vae"], take(weights, "vae.")),
    )
    makers = graphs(networks, Config(frames, case.config["num_control_frames"], height, width, decode_group=frames))
    engines = {name: EagerEngine(makers[name]()) for name in ("conditions", "step", f"vae_decode_{frames}")}
    anchor = AnchorTokens(ToyEncoder(take(weights, "image_encoder.proj.")), tokens)
    inputs = {"anchor": torch.zeros(1, 3, height, width)}
    return engines | {"anchor": EagerEngine(Graph("anchor", anchor, inputs, ("image_tokens",)))}


def generation(
    case: Case, engines: Mapping[str, EagerEngine], number: int, conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """All steps of one chunk, and its frames."""
    config, noise = case.config, RecordedNoise(case)
    schedule = Schedule.from_config({**config["scheduler"], "timestep_spacing": config["timestep_spacing"]})
    table = ddim_table(schedule, config["num_inference_steps"], eta=config["eta"])
    frames = len(case.inputs["video"])
    guidance = np.full(frames, config["guidance_scale"], np.float32)
    start = noise.normal("latents", number, 0, ())
    step = RecordedStep(FusedStep(engines["step"]), [])
    latents: list[Array] = []

    def keep(_index: int, _timestep: float, x: Any) -> Any:
        latents.append(np.asarray(x))
        return x

    denoise(step, start, conditions, Trajectory(table, guidance, "latents", number), noise, keep)
    made: dict[str, Any] = {"init_noise": start.swapaxes(0, 1)[None]}
    for index, row in enumerate(table):
        made[f"s{index}_t"] = np.array(int(row[1]))
        made[f"s{index}_guided_eps"] = step.guided[index]
        made[f"s{index}_latents_next"] = latents[index]
        made[f"s{index}_variance_noise"] = noise.normal("latents", number, index + 1, ())
    return {**made, "chunk": np.clip(decode(engines, latents[-1], frames) * 0.5 + 0.5, 0, 1)}


ADAPTERS = {
    "streaming_t2v.cam": Adapter(cam),
    "streaming_t2v.apm": Adapter(apm),
    "streaming_t2v.unet3d": Adapter(unet3d),
    "streaming_t2v.controlnet": Adapter(controlnet),
    "streaming_t2v.image_preprocess": Adapter(image_preprocess),
    "streaming_t2v.noise_generator": Adapter(noise_generator),
    # Values are truncated to levels, so a rounding error may cost one; how often is checked by the adapter.
    "streaming_t2v.denoise_loop": Adapter(denoise_loop, {"saved_*": Limit(rel=None, absolute=1.0)}),
}
