"""I2VGen-XL's published weights (diffusers' folders `unet`, `vae`, `text_encoder`, `image_encoder`) -> our modules.

Configurations are those of the same folders. Modules are made without memory and take the given tensors as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_i2vgen_xl import I2VGenXLUNet
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from stt2v.export.weights.base import Rule, State, load_strict, rename

Config = Mapping[str, Any]

TEXT_RULES: tuple[Rule, ...] = ((r"^text_model\.", ""),)
POSITIONS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")
"""Counters that older versions of transformers stored beside the weights."""


def make_unet(config: Config) -> I2VGenXLUNet:
    """An empty UNet."""
    unet: I2VGenXLUNet = I2VGenXLUNet(**_known(config))
    return unet


def make_vae(config: Config) -> AutoencoderKL:
    """An empty autoencoder."""
    vae: AutoencoderKL = AutoencoderKL(**_known(config))
    return vae


def make_text_encoder(config: Config) -> CLIPTextModel:
    """An empty CLIP text tower."""
    return CLIPTextModel(CLIPTextConfig(**config))


def make_image_encoder(config: Config) -> CLIPVisionModelWithProjection:
    """An empty CLIP image tower with its projection."""
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))


MAKERS: Mapping[str, Callable[[Config], Any]] = {
    "unet": make_unet,
    "vae": make_vae,
    "text_encoder": make_text_encoder,
    "image_encoder": make_image_encoder,
}


def load_component(component: str, config: Config, state: State) -> Any:
    """The module of one of the folders (a key of `MAKERS`) with its weights under their original keys.

    Raises: ExportError when a key is missing or over, or a shape differs.
    """
    rules = TEXT_RULES if component == "text_encoder" else ()
    with torch.device("meta"):
        module = MAKERS[component](config)
    module = load_strict(module, rename(state, rules, ignored_prefixes=POSITIONS))
    _restore_positions(module)
    return module


def original_shapes(component: str, config: Config) -> dict[str, tuple[int, ...]]:
    """The original keys of a component and their shapes, for weights made up by a recipe."""
    with torch.device("meta"):
        state = MAKERS[component](config).state_dict()
    prefix = "text_model." if component == "text_encoder" else ""
    return {prefix + key: tuple(tensor.shape) for key, tensor in state.items()}


def _known(config: Config) -> dict[str, Any]:
    """Without diffusers' own notes such as `_class_name`."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _restore_positions(module: nn.Module) -> None:
    """Counters are no weights, so nothing has filled them after the module was made without memory."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_meta and name == "position_ids":
                setattr(part, name, torch.arange(buffer.shape[-1])[None])
