"""StreamingT2V: its modules, networks and recorded runs."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from golden.cases import Adapter, Case
from stt2v.export.models.image_encoder import ClipPreprocessing
from stt2v.export.models.modelscope_unet import KeysValues, ProjectedAttention
from stt2v.export.models.streaming_t2v import AppearanceMix, ControlNet, StreamingUNet
from stt2v.export.models.streaming_t2v_steps import TextConstants
from stt2v.export.weights.base import load_strict, take
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
        **{name: output[-1] for name, output in outputs.items()},
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


ADAPTERS = {
    "streaming_t2v.cam": Adapter(cam),
    "streaming_t2v.apm": Adapter(apm),
    "streaming_t2v.unet3d": Adapter(unet3d),
    "streaming_t2v.controlnet": Adapter(controlnet),
    "streaming_t2v.image_preprocess": Adapter(image_preprocess),
}
