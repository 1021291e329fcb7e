"""StreamingT2V as graphs: its networks at published and at toy width, for a size and a number of frames.

The two halves of a guidance pair are unconditional first. Latents are [F, 4, h, w].
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from stt2v.engine.stages.decode import decode_groups
from stt2v.export.families.i2vgen_xl import vae_config
from stt2v.export.families.steps import StepGraphs
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.models.autoencoder import LatentDecoder
from stt2v.export.models.clip import TextTower
from stt2v.export.models.image_encoder import ImageEncoder
from stt2v.export.models.modelscope_unet import ModelScopeEncoder, ModelScopeUNet, UNetSpec
from stt2v.export.models.streaming_t2v import ControlNet, ImageTokens, MemorySpec, StreamingUNet
from stt2v.export.models.streaming_t2v_steps import (
    AnchorTokens,
    StreamingConstants,
    StreamingNetwork,
    TextConstants,
    TextNetwork,
)
from stt2v.export.random_weights import random_state
from stt2v.export.step import UpdateRule
from stt2v.export.weights.base import State
from stt2v.export.weights.i2vgen_xl import load_component, original_shapes
from stt2v.export.weights.modelscope import load_unet
from stt2v.export.weights.streaming_svd import load_into, restore_positions
from stt2v.export.weights.streaming_t2v import load_checkpoint
from stt2v.export.weights.structure import shapes_of

Module = TypeVar("Module", bound=nn.Module)

FIRST_RULE = UpdateRule(previous=True)
RULE = UpdateRule(noise=True)
TEXT_TOKENS, IMAGE_TOKENS = 77, 16


@dataclass(frozen=True)
class Structure:
    """The structure of every network; configurations are those of transformers and diffusers."""

    text_encoder: dict[str, Any]
    tower: dict[str, Any]
    vae: dict[str, Any]
    unet: UNetSpec = field(default_factory=UNetSpec)
    control_widths: tuple[int, ...] = (32, 96, 256, 512)
    cam_head_width: int = 64
    image_inner: int = 1280

    def memory(self) -> MemorySpec:
        return MemorySpec(self.unet.skip_channels, self.cam_head_width, TEXT_TOKENS, IMAGE_TOKENS)


PUBLISHED = Structure(
    text_encoder={
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
    },
    tower={
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
    vae=vae_config(128, 256, 512, 512, layers=2, groups=32),
)

TOY = Structure(
    text_encoder={
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "hidden_act": "gelu",
    },
    tower={
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": 32,
        "image_size": 64,
        "projection_dim": 16,
        "hidden_act": "gelu",
    },
    vae=vae_config(4, 8, 8, 8, layers=1, groups=2),
    unet=UNetSpec((32, 32), (True, False), layers=1, context_width=16, head_width=8, entry_heads=2),
    control_widths=(4, 8, 8, 12),
    cam_head_width=16,
    image_inner=12,
)


@dataclass(frozen=True)
class Networks:
    """The networks with their weights."""

    first_unet: ModelScopeUNet
    unet: StreamingUNet
    control: ControlNet
    image_tokens: ImageTokens
    tower: CLIPVisionModelWithProjection
    text_encoder: CLIPTextModel
    vae: AutoencoderKL


def load_networks(checkpoint: State, first_unet: State) -> Networks:
    """From StreamingT2V's checkpoint and the UNet of ModelScope's text-to-video, both as published.

    Raises: ExportError when a key is missing or over, or a shape differs.
    """
    return Networks(load_unet(first_unet), **vars(load_checkpoint(checkpoint)))


def random_networks(structure: Structure, seed: int) -> Networks:
    """Networks of that structure with weights by the recipe, for tests and trials."""

    def made(name: str, make: Callable[[], Module]) -> Module:
        with torch.device("meta"):
            shapes = shapes_of(make())
        return load_into(lambda _: make(), None, random_state(shapes, seed, f"{name}."))

    def component(name: str, config: dict[str, Any]) -> Any:
        return load_component(name, config, random_state(original_shapes(name, config), seed, f"{name}."))

    spec = structure.unet
    tower = CLIPVisionConfig(**structure.tower)
    return Networks(
        made("first_unet", lambda: ModelScopeUNet(spec)),
        made("unet", lambda: StreamingUNet(spec, structure.memory())),
        made("control", lambda: ControlNet(spec, structure.control_widths)),
        made("image_tokens", lambda: ImageTokens(spec.context_width, structure.image_inner, IMAGE_TOKENS)),
        restore_positions(made("tower", lambda: CLIPVisionModelWithProjection(tower))),
        component("text_encoder", structure.text_encoder),
        component("vae", structure.vae),
    )


@dataclass(frozen=True)
class Config:
    """Sizes of the graphs: frames a chunk, conditional ones among them, pixels, frames decoded together."""

    frames: int = 16
    conditional: int = 8
    height: int = 256
    width: int = 256
    decode_group: int = 16
    text_tokens: int = TEXT_TOKENS
    image_tokens: int = IMAGE_TOKENS
    latent_channels: int = 4


def graphs(networks: Networks, config: Config) -> dict[str, GraphMaker]:
    """All graphs of the family by name."""
    return StreamingT2vGraphs(networks, config).makers()


@dataclass(frozen=True)
class StreamingT2vGraphs:
    """The graphs of StreamingT2V; each method makes one."""

    networks: Networks
    config: Config

    def makers(self) -> dict[str, GraphMaker]:
        """All graphs by name; see `engine/models/streaming_t2v.py` for what the conditions are."""
        makers = (self.text_encoder, self.anchor, self.first_conditions, self.conditions)
        named: dict[str, GraphMaker] = {maker.__name__: maker for maker in makers}
        latents = functools.partial(self._latents, self.config.frames)
        first = StepGraphs("first_", self._first_network, FIRST_RULE, latents, self._first_inputs)
        later = StepGraphs("", self._streaming_network, RULE, latents, self._streaming_inputs)
        named |= first.makers() | later.makers()
        return named | self.decoders()

    def decoders(self) -> dict[str, GraphMaker]:
        """The autoencoder's decoder for every number of frames that are decoded together."""
        groups = sorted(set(decode_groups(self.config.frames, self.config.decode_group)), reverse=True)
        return {f"vae_decode_{group}": functools.partial(self.vae_decode, group) for group in groups}

    def text_encoder(self) -> Graph:
        """Negative and positive prompt."""
        tokens = torch.zeros(2, self.config.text_tokens, dtype=torch.int64)
        return Graph("text_encoder", self._text_tower(), {"tokens": tokens}, ("text",))

    def anchor(self) -> Graph:
        """Image tokens of the anchor frame."""
        module = AnchorTokens(self._image_encoder(), self.networks.image_tokens)
        return Graph("anchor", module, {"anchor": self._pixels(1)}, ("image_tokens",))

    def first_conditions(self) -> Graph:
        """What is constant over the steps of the first chunk."""
        module = TextConstants(self.networks.first_unet)
        return Graph("first_conditions", module, {"text": self._tokens(self.config.text_tokens)}, ("context",))

    def conditions(self) -> Graph:
        """What is constant over the steps of a streaming chunk."""
        inputs = {
            "text": self._tokens(self.config.text_tokens),
            "image_tokens": self._tokens(self.config.image_tokens),
            "control_frames": self._pixels(self.config.conditional),
        }
        module = StreamingConstants(self.networks.unet, self.networks.control)
        return Graph("conditions", module, inputs, ("context", "control_context", "control_embedding"))

    def vae_decode(self, group: int) -> Graph:
        """The frames of `group` latents that are decoded together; each is decoded by itself."""
        inputs = {"latents": self._latents(group)}
        return Graph(f"vae_decode_{group}", self._decoder(), inputs, ("frames",))

    def _text_tower(self) -> nn.Module:
        return TextTower(self.networks.text_encoder)

    def _image_encoder(self) -> nn.Module:
        return ImageEncoder(self.networks.tower, self.config.height, self.config.width)

    def _decoder(self) -> nn.Module:
        return LatentDecoder(self.networks.vae)

    def _downscale(self) -> int:
        """How many pixels a latent's side covers."""
        return int(2 ** (len(self.networks.vae.config["block_out_channels"]) - 1))

    def _first_network(self) -> TextNetwork:
        return TextNetwork(self.networks.first_unet)

    def _streaming_network(self) -> StreamingNetwork:
        return StreamingNetwork(self.networks.unet, self.networks.control)

    def _pixels(self, frames: int) -> Tensor:
        return torch.zeros(frames, 3, self.config.height, self.config.width)

    def _latents(self, frames: int) -> Tensor:
        how, scale = self.config, self._downscale()
        return torch.zeros(frames, how.latent_channels, how.height // scale, how.width // scale)

    def _tokens(self, count: int) -> Tensor:
        return torch.zeros(2, count, self.networks.unet.spec.context_width)

    def _first_inputs(self, halves: int) -> dict[str, Tensor]:
        return {"context": self._context(self.networks.first_unet, halves)}

    def _streaming_inputs(self, halves: int) -> dict[str, Tensor]:
        latents = self._latents(self.config.conditional)
        width = self.networks.unet.spec.widths[0]
        return {
            "context": self._context(self.networks.unet, halves),
            "control_context": self._context(self.networks.control, halves),
            "control_embedding": latents.new_zeros(len(latents), width, *latents.shape[2:]),
        }

    def _context(self, unet: ModelScopeEncoder, halves: int) -> Tensor:
        """Empty keys and values."""
        return torch.zeros(halves, self.config.text_tokens, sum(unet.site_widths()))
