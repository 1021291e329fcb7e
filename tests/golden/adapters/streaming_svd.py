"""The networks of StreamingSVD."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from golden.cases import Adapter, Case, part
from golden.taps import numbered, tapped
from stt2v.engine.stages.decode import decode_groups
from stt2v.export.models.control_branch import ControlBranch
from stt2v.export.models.image_encoder import ClipPreprocessing, ImageEncoder
from stt2v.export.models.streaming_unet import StreamingNetwork, embed_vector
from stt2v.export.models.temporal_vae import LATENT_SCALE, TemporalDecoder
from stt2v.export.models.video_transformer import sinusoid
from stt2v.export.models.video_unet import VideoUNet
from stt2v.export.weights.streaming_svd import (
    HEAD_WIDTH,
    IMAGE_ENCODER,
    TOWER,
    TOWER_HEAD_WIDTH,
    load_cam,
    load_control_branch,
    load_decoder,
    load_image_encoder,
    load_tower,
    load_unet,
)

Outputs = Mapping[str, Any]


def unet_of(case: Case, entry: str, config: Mapping[str, Any]) -> VideoUNet:
    """The UNet whose weights are named by `entry` of `config`, a part of the case's configuration."""
    cam_head_width = config.get("merger_attention_head_dim", HEAD_WIDTH)
    return load_unet(case.weights(entry, config), head_width(config), cam_head_width)


def control_of(case: Case, entry: str, config: Mapping[str, Any]) -> ControlBranch:
    return load_control_branch(case.weights(entry, config), head_width(config))


def head_width(config: Mapping[str, Any]) -> int:
    """Of the UNet and the control branch; keys and shapes do not tell it."""
    return int(config.get("unet", {}).get("num_head_channels", HEAD_WIDTH))


def tower_of(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> CLIPVisionModelWithProjection:
    """The tower of a conditioner of which `config` is the configuration."""
    head_width = config.get("clip", {}).get("vision_head_width", TOWER_HEAD_WIDTH)
    return load_tower(part(weights, TOWER), head_width)


def cam_cross_attention(case: Case) -> Outputs:
    sample, control = case.tensor("sample"), case.tensor("conditioning")
    frames = case.outputs["norm_BCFHW"].shape[2]
    height, width = sample.shape[2:]
    cam = load_cam(case.weights(), case.config.get("attention_head_dim", HEAD_WIDTH))
    names = {"norm": "norm_BCFHW", "proj_in": "proj_in_BHW_F_C", "proj_out": "proj_out_BHW_F_C"}
    parts = {name: getattr(cam, part) for part, name in names.items()} | {"attention_BHW_F_C": cam.attention}
    with tapped(parts) as outputs:
        output = cam(sample, control, frames)
    outputs["norm_BCFHW"] = outputs["norm_BCFHW"].unflatten(3, (height, width))
    return {**outputs, "output": output}


def controlnet(case: Case) -> Outputs:
    branch = control_of(case, "weights", case.config)
    frames = case.inputs["image_only_indicator"].shape[1]
    embedding = branch.frame_encoder(case.tensor("controlnet_cond"))

    def features(indicator: str) -> tuple[list[Tensor], Tensor]:
        context, label = branch.project_context(case.tensor("context")[:, 0]), branch.embed_label(case.tensor("y"))
        timesteps, images = case.tensor("timesteps"), case.tensor(indicator)
        return branch(case.tensor("x"), frames, timesteps, context, label, embedding, images)

    skips, middle = features("image_only_indicator")
    alternative = features("image_only_indicator_alt")[1]
    named = {f"hs.{index}": skip for index, skip in enumerate(skips)}
    # Feed-forward layers in chunks are the reference's way to save memory; the result is the same.
    return {**named, "cond_embedding": embedding, "mid": middle, "alt.mid": alternative, "chunked2.mid": middle}


def video_unet(case: Case) -> Outputs:
    unet = unet_of(case, "weights", case.config)
    frames = case.inputs["image_only_indicator"].shape[1]
    label = unet.embed_label(case.tensor("y"))
    context = unet.project_context(case.tensor("context")[:, 0])
    control = case.stacked("hs_control_input.{}"), case.tensor("hs_control_mid")

    def predict(control: Any, images: Tensor | None) -> Tensor:
        return unet(case.tensor("x"), frames, case.tensor("timesteps"), context, label, control, images)

    parts = {"middle_block": unet.middle_block, "merged_mid": unet.middle_cam, "time_embed": unet.time_embedding}
    parts |= numbered("input_block.{}", unet.input_blocks) | numbered("merged.{}", unet.skip_cams)
    with tapped(parts | numbered("output_block.{}", unet.output_blocks)) as outputs:
        out = predict(control, case.tensor("image_only_indicator"))
    outputs |= {"label_emb": label, "out": out, "out_forward_chunking_2": out}
    outputs["out_no_control"] = predict(None, case.tensor("image_only_indicator"))
    outputs["out_alt_indicator"] = predict(control, case.tensor("image_only_indicator_alt"))
    return outputs | {f"{name}.stats": stats(output) for name, output in outputs.items()}


def stats(x: Tensor) -> Tensor:
    return torch.stack([x.mean(), x.std(), x.abs().max()])


def network_of(case: Case, config: Mapping[str, Any]) -> StreamingNetwork:
    return StreamingNetwork(
        unet_of(case, "weights_unet", config),
        control_of(case, "weights_controlnet", config),
    )


def step_conditions(
    network: StreamingNetwork, concat: Tensor, crossattn: Tensor, vector: Tensor, control_frames: Tensor
) -> dict[str, Tensor]:
    """What the network takes besides the latents.

    concat: [(2 F), C, h, w]; crossattn: [(2 F), 1, D]; vector: [(2 F), label width]; control_frames: [Fc, 3, H, W].
    """

    def first(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (2, -1))[:, : len(control_frames)].flatten(0, 1)

    context = crossattn[:, 0]
    return {
        "image_latent": concat,
        "context": network.unet.project_context(context),
        "label": network.unet.embed_label(vector),
        "control_context": network.control.project_context(first(context)),
        "control_label": network.control.embed_label(first(vector)),
        "control_embedding": network.control.frame_encoder(control_frames),
    }


def streaming_wrapper(case: Case) -> Outputs:
    network = network_of(case, case.config)
    inputs = (case.tensor(name) for name in ("concat", "crossattn", "vector"))
    conditions = step_conditions(network, *inputs, case.tensor("ctrl_frames")[0])

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        return network(x.unflatten(0, (2, -1)), timestep, **conditions).flatten(0, 1)

    x, sigma = case.tensor("x"), case.tensor("sigma")[:, None, None, None]
    with tapped({"control": network.control}) as taps:
        output = predict(x, case.tensor("c_noise"))
    skips, middle = taps["control"]
    scale = torch.rsqrt(sigma**2 + 1)
    denoised = predict(x * scale, 0.25 * sigma.flatten().log()) * -sigma * scale + x * scale**2
    named = {f"controlnet_hs.{index}": skip for index, skip in enumerate(skips)}
    return {**named, "controlnet_mid": middle, "network_output": output, "denoised": denoised}


def conditioner(case: Case) -> Outputs:
    config, image = case.config, case.tensor("image")
    weights = case.weights()
    tower = tower_of(weights, config)
    size = tower.config.image_size
    encoder = load_image_encoder(part(weights, IMAGE_ENCODER))
    embedding = ImageEncoder(tower, *image.shape[2:])(image)
    moments = encoder.moments(case.tensor("cond_frames"))
    mode = encoder(case.tensor("cond_frames"))
    raw = torch.tensor([[config[name] for name in ("fps_id", "motion_bucket_id", "cond_aug")]])
    rows, label_width = case.outputs["c.vector"].shape
    vector = embed_vector(raw, label_width).expand(rows, -1)
    outputs = {
        "ae_moments": moments,
        "ae_mode": mode,
        "clip_image_embedding": embedding[:, 0],
        "clip_preprocess.small_strided": preprocessed(image, size),
        **{f"c.{name}": value for name, value in (("vector", vector), ("crossattn", embedding), ("concat", mode))},
        **{f"uc.{name}": torch.zeros_like(value) for name, value in (("crossattn", embedding), ("concat", mode))},
        "uc.vector": vector,
    }
    for height, width in config["clip_preprocess_sizes"]:
        name = f"clip_preprocess.formula_{height}x{width}_strided"
        outputs[name] = preprocessed(formula_image(height, width), size)
    for value in config["embedding_values"]:
        for width in config["embedding_outdims"]:
            outputs[f"timestep_embedding.outdim{width}.value{value}"] = sinusoid(torch.tensor([value]), width)
    return outputs


def preprocessed(image: Tensor, size: int) -> Tensor:
    return ClipPreprocessing(*image.shape[2:], size)(image)[:, :, ::4, ::4]


def formula_image(height: int, width: int) -> Tensor:
    channel, i, j = torch.meshgrid(*(torch.arange(n).double() for n in (3, height, width)), indexing="ij")
    k = (channel + 1) / 3
    image = 0.6 * torch.sin(0.37 * j * k + 0.11 * i) + 0.4 * torch.cos(0.9 * i * k - 0.05 * j)
    return image.clamp(-1, 1).float()[None]


def temporal_vae_encoder(case: Case) -> Outputs:
    encoder = load_image_encoder(case.weights())
    moments = encoder.moments(case.tensor("images"))
    posterior = DiagonalGaussianDistribution(moments)
    return {
        "moments": moments,
        "mode": encoder(case.tensor("images")),
        "kl_loss": posterior.kl().mean()[None],
        "sample_with_given_noise": posterior.mean + posterior.std * case.tensor("noise"),
    }


def temporal_vae_decoder(case: Case) -> Outputs:
    decoder = load_decoder(case.weights())
    scaled = case.tensor("z_scaled")
    with tapped({"mid.block_1": decoder.middle_in, "mid.attn_1": decoder.middle_attention}) as outputs:
        outputs["decode4.no_scale"] = decoder(case.tensor("z")[:4])
    return {
        **outputs,
        "decode_first_stage.chunk8": in_groups(decoder, scaled, 8),
        "decode_first_stage.chunk4": in_groups(decoder, scaled, 4),
        "decode_first_stage.unchunked": in_groups(decoder, scaled, len(scaled)),
    }


def in_groups(decoder: TemporalDecoder, scaled: Tensor, group: int) -> Tensor:
    parts = scaled.split(decode_groups(len(scaled), group))
    return torch.cat([decoder(part / LATENT_SCALE) for part in parts])


ADAPTERS = {
    f"streaming_svd.{compute.__name__}": Adapter(compute)
    for compute in (
        cam_cross_attention,
        controlnet,
        video_unet,
        streaming_wrapper,
        conditioner,
        temporal_vae_encoder,
        temporal_vae_decoder,
    )
}
