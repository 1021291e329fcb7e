"""The enhancer MS-Vid2Vid-XL as graphs: its networks at published and at toy width, for a size and window lengths."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel

from stt2v.export.families.i2vgen_xl import vae_config
from stt2v.export.families.steps import StepGraphs
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.models.autoencoder import LatentDecoder, LatentEncoder
from stt2v.export.models.clip import TextTower
from stt2v.export.models.modelscope_unet import UNetSpec
from stt2v.export.models.streaming_t2v_steps import TextConstants, TextNetwork
from stt2v.export.models.vid2vid import DOWN_PADDING, Vid2VidUNet
from stt2v.export.random_weights import random_state
from stt2v.export.step import UpdateRule
from stt2v.export.weights.base import State
from stt2v.export.weights.i2vgen_xl import load_component, original_shapes
from stt2v.export.weights.streaming_svd import load_into
from stt2v.export.weights.structure import shapes_of
from stt2v.export.weights.vid2vid import load_autoencoder, load_text_tower, load_unet

RULE = UpdateRule(noise=True, previous=True, rescale=0.2)
TEXT_TOKENS = 77
SKIPPED_LAYERS = 1  # of the text tower, at its end


@dataclass(frozen=True)
class Networks:
    """The networks with their weights."""

    unet: Vid2VidUNet
    text_encoder: CLIPTextModel
    vae: AutoencoderKL


def load_networks(unet: State, text_encoder: State, autoencoder: State) -> Networks:
    """From the three published files.

    Raises: ExportError when a key is missing or over, or a shape differs.
    """
    return Networks(load_unet(unet), load_text_tower(text_encoder), load_autoencoder(autoencoder))


@dataclass(frozen=True)
class Structure:
    """The structure of every network; configurations are those of transformers and diffusers."""

    unet: UNetSpec
    text_encoder: dict[str, Any]
    vae: dict[str, Any]


PUBLISHED = Structure(
    unet=UNetSpec(),
    text_encoder={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
    vae=vae_config(128, 256, 512, 512, layers=2, groups=32),
)

TOY = Structure(
    unet=UNetSpec((32, 32), (True, False), layers=1, context_width=16, head_width=8, entry_heads=2),
    text_encoder={
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    },
    vae=vae_config(4, 8, 8, 8, layers=1, groups=2),
)


def random_networks(structure: Structure, seed: int) -> Networks:
    """Networks of that structure with weights by the recipe, for tests and trials."""

    def component(name: str, config: dict[str, Any]) -> Any:
        return load_component(name, config, random_state(original_shapes(name, config), seed, f"{name}."))

    spec = replace(structure.unet, down_padding=DOWN_PADDING)
    with torch.device("meta"):
        shapes = shapes_of(Vid2VidUNet(spec))
    unet = load_into(Vid2VidUNet, spec, random_state(shapes, seed, "unet."))
    return Networks(unet, component("text_encoder", structure.text_encoder), component("vae", structure.vae))


@dataclass(frozen=True)
class Vid2VidGraphs:
    """The graphs of the enhancer for pictures of width x height and windows of the given lengths."""

    networks: Networks
    width: int
    height: int
    windows: tuple[int, ...]

    def makers(self) -> dict[str, GraphMaker]:
        """All graphs by name. The conditions are those of all windows."""
        graphs: dict[str, GraphMaker] = {
            "enhance_text_encoder": self.text_encoder,
            "enhance_vae_encode": self.vae_encode,
            "enhance_vae_decode": self.vae_decode,
            "enhance_conditions": self.conditions,
        }
        for window in self.windows:
            latents = functools.partial(self._latents, window)
            graphs |= StepGraphs(f"enhance_{window}_", self._network, RULE, latents, self._conditions).makers()
        return graphs

    def text_encoder(self) -> Graph:
        """Negative and positive prompt."""
        tower = TextTower(self.networks.text_encoder, SKIPPED_LAYERS)
        tokens = torch.zeros(2, TEXT_TOKENS, dtype=torch.int64)
        return Graph("enhance_text_encoder", tower, {"tokens": tokens}, ("text",))

    def vae_encode(self) -> Graph:
        """One picture and the noise of its sample."""
        inputs = {"image": torch.zeros(1, 3, self.height, self.width), "noise": self._latents(1)}
        return Graph("enhance_vae_encode", LatentEncoder(self.networks.vae), inputs, ("latents",))

    def vae_decode(self) -> Graph:
        """One picture."""
        return Graph("enhance_vae_decode", LatentDecoder(self.networks.vae), {"latents": self._latents(1)}, ("frames",))

    def conditions(self) -> Graph:
        """What stays the same over all steps and windows."""
        inputs = {"text": torch.zeros(2, TEXT_TOKENS, self.networks.unet.spec.context_width)}
        return Graph("enhance_conditions", TextConstants(self.networks.unet), inputs, ("context",))

    def _network(self) -> TextNetwork:
        return TextNetwork(self.networks.unet)

    def _latents(self, frames: int) -> Tensor:
        scale = 2 ** (len(self.networks.vae.config["block_out_channels"]) - 1)
        return torch.zeros(frames, 4, self.height // scale, self.width // scale)

    def _conditions(self, halves: int) -> dict[str, Tensor]:
        return {"context": torch.zeros(halves, TEXT_TOKENS, sum(self.networks.unet.site_widths()))}


def toy_graphs(width: int, height: int, windows: Iterable[int], seed: int = 0) -> Vid2VidGraphs:
    """The enhancer at toy width with random weights."""
    return Vid2VidGraphs(random_networks(TOY, seed), width, height, tuple(windows))
