"""The enhancer I2VGen-XL as graphs: its networks at published and at toy width, for given sizes and windows."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stt2v.export.families.steps import StepGraphs
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.models.autoencoder import LatentDecoder, LatentEncoder
from stt2v.export.models.clip import ImageTower, TextTower
from stt2v.export.models.i2vgen_xl import I2VGenXLNetwork, WindowConditions
from stt2v.export.random_weights import random_state
from stt2v.export.step import UpdateRule
from stt2v.export.weights.base import State
from stt2v.export.weights.i2vgen_xl import Config, load_component, original_shapes

Weights = Callable[[str], State]
"""The weights of one component ("unet", "vae", "text_encoder", "image_encoder") under their original keys."""

RULE = UpdateRule()


@dataclass(frozen=True)
class Networks:
    """The configurations of the checkpoint's folders, as in their `config.json`, and where the text tower stops."""

    unet: Config = field(default_factory=dict)
    vae: Config = field(default_factory=dict)
    text_encoder: Config = field(default_factory=dict)
    image_encoder: Config = field(default_factory=dict)
    clip_skip: int = 1

    @property
    def downscale(self) -> int:
        """Pixels a latent pixel covers, each way."""
        levels = len(self.vae.get("block_out_channels", (64,)))
        return 1 << (levels - 1)

    @property
    def context_width(self) -> int:
        width: int = self.unet.get("cross_attention_dim", 1024)
        return width

    @property
    def time_width(self) -> int:
        channels: tuple[int, ...] = self.unet.get("block_out_channels", (320, 640, 1280, 1280))
        return 4 * channels[0]


def vae_config(*channels: int, layers: int, groups: int) -> dict[str, Any]:
    """An image autoencoder of the usual build with these widths."""
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "layers_per_block": layers,
        "norm_num_groups": groups,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
    }


PUBLISHED = Networks(
    vae=vae_config(128, 256, 512, 512, layers=2, groups=32),
    text_encoder={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
    image_encoder={
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
)

TOY = Networks(
    unet={
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
        "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock3D", "DownBlock3D"),
        "up_block_types": ("UpBlock3D", "CrossAttnUpBlock3D"),
    },
    vae=vae_config(4, 8, 8, 8, layers=1, groups=2),
    text_encoder={
        "vocab_size": 258,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "projection_dim": 16,
        "hidden_act": "gelu",
    },
    image_encoder={
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 8,
        "image_size": 32,
        "projection_dim": 16,
        "hidden_act": "gelu",
    },
)


def random_weights(networks: Networks, seed: int) -> Weights:
    """Weights by the recipe, for tests and trials."""

    def component(name: str) -> State:
        return random_state(original_shapes(name, getattr(networks, name)), seed, f"{name}.")

    return component


@dataclass(frozen=True)
class EnhancerGraphs:
    """The graphs of an enhancer for pictures of width x height and clips of the given window lengths."""

    networks: Networks
    weights: Weights
    width: int
    height: int
    windows: tuple[int, ...]

    def makers(self) -> dict[str, GraphMaker]:
        """All graphs by name; see `engine/stages/i2vgen_xl.py` for what each is for."""
        graphs: dict[str, GraphMaker] = {
            "enhance_text_encoder": self.text_encoder,
            "enhance_image_encoder": self.image_encoder,
            "enhance_vae_encode": self.vae_encode,
            "enhance_vae_decode": self.vae_decode,
        }
        for window in self.windows:
            latents, conditions = functools.partial(self._latents, window), functools.partial(self._conditions, window)
            graphs[f"enhance_{window}_conditions"] = functools.partial(self.conditions, window)
            graphs |= StepGraphs(f"enhance_{window}_", self._network, RULE, latents, conditions).makers()
        return graphs

    def text_encoder(self) -> Graph:
        """Negative and positive prompt."""
        tower = TextTower(self._component("text_encoder"), self.networks.clip_skip)
        return Graph("enhance_text_encoder", tower, {"tokens": torch.zeros(2, 77, dtype=torch.int64)}, ("text",))

    def image_encoder(self) -> Graph:
        """One picture."""
        side = self.networks.image_encoder["image_size"]
        tower = ImageTower(self._component("image_encoder"))
        return Graph("enhance_image_encoder", tower, {"image": torch.zeros(1, 3, side, side)}, ("image_embedding",))

    def vae_encode(self) -> Graph:
        """One picture and the noise of its sample."""
        inputs = {"image": torch.zeros(1, 3, self.height, self.width), "noise": self._latents(1)}
        return Graph("enhance_vae_encode", LatentEncoder(self._component("vae")), inputs, ("latents",))

    def vae_decode(self) -> Graph:
        """One picture."""
        decoder = LatentDecoder(self._component("vae"))
        return Graph("enhance_vae_decode", decoder, {"latents": self._latents(1)}, ("frames",))

    def conditions(self, window: int) -> Graph:
        """What stays the same over the steps of a window."""
        inputs = {
            "text": torch.zeros(2, 77, self.networks.context_width),
            "image_embedding": torch.zeros(2, 1, self.networks.context_width),
            "image_latents": self._latents(window)[None],
            "fps": torch.full((1,), 38.0),
        }
        outputs = ("context", "fps_embedding", "image_maps")
        return Graph(f"enhance_{window}_conditions", WindowConditions(self._component("unet")), inputs, outputs)

    def _network(self) -> I2VGenXLNetwork:
        return I2VGenXLNetwork(self._component("unet"))

    def _component(self, name: str) -> Any:
        return load_component(name, getattr(self.networks, name), self.weights(name))

    def _latents(self, frames: int) -> Tensor:
        scale = self.networks.downscale
        return torch.zeros(frames, 4, self.height // scale, self.width // scale)

    def _conditions(self, window: int, halves: int) -> dict[str, Tensor]:
        return {
            "context": torch.zeros(halves, 77 + 64 + 4, self.networks.context_width),
            "fps_embedding": torch.zeros(1, self.networks.time_width),
            "image_maps": self._latents(window)[None],
        }


def toy_graphs(width: int, height: int, windows: Iterable[int], seed: int = 0) -> EnhancerGraphs:
    """The enhancer at toy width with random weights."""
    return EnhancerGraphs(TOY, random_weights(TOY, seed), width, height, tuple(windows))
