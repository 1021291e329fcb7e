"""StreamingSVD as graphs: its networks at published and at toy width, for a size and a number of frames.

The two halves of a guidance pair are unconditional first. Latents are [F, 4, h, w].
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from stt2v.engine.stages.decode import decode_groups
from stt2v.export.families.steps import OUTPUTS, StepGraphs, coefficients
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.models.control_branch import ControlBranch, ControlSpec
from stt2v.export.models.image_encoder import ImageEncoder
from stt2v.export.models.streaming_unet import ConditionConstants, FirstNetwork, StreamingConstants, StreamingNetwork
from stt2v.export.models.temporal_vae import LatentDecoder, LatentEncoder, TemporalDecoder, VaeSpec
from stt2v.export.models.unet_spec import UNetSpec, svd_spec
from stt2v.export.models.video_unet import VideoEncoder, VideoUNet
from stt2v.export.random_weights import random_state
from stt2v.export.step import Update, UpdateRule
from stt2v.export.weights.base import State
from stt2v.export.weights.streaming_svd import load_checkpoint, load_into, restore_positions
from stt2v.export.weights.structure import shapes_of
from stt2v.export.weights.svd_xt import load_first_unet

Module = TypeVar("Module", bound=nn.Module)
Spec = TypeVar("Spec")

RULE = UpdateRule()
VECTOR = 3  # frame rate, motion bucket, augmentation


@dataclass(frozen=True)
class Structure:
    """The structure of every network; the default is the published one."""

    unet: UNetSpec = field(default_factory=svd_spec)
    control_widths: tuple[int, ...] = (32, 96, 256, 512)
    vae: VaeSpec = field(default_factory=lambda: VaeSpec((128, 256, 512, 512), 2))
    tower_width: int = 1280
    tower_layers: int = 32
    tower_head_width: int = 80
    patch: int = 14

    def tower(self) -> CLIPVisionConfig:
        return CLIPVisionConfig(
            hidden_size=self.tower_width,
            intermediate_size=4 * self.tower_width,
            projection_dim=self.unet.context_width,
            num_hidden_layers=self.tower_layers,
            num_attention_heads=self.tower_width // self.tower_head_width,
            image_size=224,
            patch_size=self.patch,
            hidden_act="gelu",
        )


TINY = Structure(
    svd_spec(32, (1, 1), 1, (0,), context_width=32, label_width=24, head_width=16, cam_head_width=16),
    control_widths=(8, 12, 16, 24),
    vae=VaeSpec((32, 32, 32, 32), 1),
    tower_width=32,
    tower_layers=2,
    tower_head_width=16,
    patch=32,
)


@dataclass(frozen=True)
class Networks:
    """The networks with their weights."""

    first_unet: VideoUNet
    unet: VideoUNet
    control: ControlBranch
    tower: CLIPVisionModelWithProjection
    image_encoder: LatentEncoder
    decoder: TemporalDecoder


def load_networks(checkpoint: State, first_unet: State) -> Networks:
    """From StreamingSVD's checkpoint and the UNet of stock SVD-XT, both as published.

    Raises: ExportError when a key is missing or over, or a shape differs.
    """
    parts = load_checkpoint(checkpoint)
    unet = load_first_unet(first_unet)
    return Networks(unet, parts.unet, parts.control, parts.tower, parts.image_encoder, parts.decoder)


def random_networks(structure: Structure, seed: int) -> Networks:
    """Networks of that structure with weights by the recipe, for tests and trials."""

    def make(name: str, module: Callable[[Spec], Module], spec: Spec) -> Module:
        with torch.device("meta"):
            shapes = shapes_of(module(spec))
        return load_into(module, spec, random_state(shapes, seed, f"{name}."))

    control = ControlSpec(structure.unet.encoder_only(), structure.control_widths)
    tower = make("tower", CLIPVisionModelWithProjection, structure.tower())
    return Networks(
        make("first_unet", VideoUNet, structure.unet.stock()),
        make("unet", VideoUNet, structure.unet),
        make("control", ControlBranch, control),
        restore_positions(tower),
        make("image_encoder", LatentEncoder, structure.vae),
        make("decoder", TemporalDecoder, structure.vae),
    )


@dataclass(frozen=True)
class Config:
    """Sizes of the graphs: frames a chunk, conditional ones among them, pixels, frames decoded together."""

    frames: int = 25
    conditional: int = 7
    height: int = 576
    width: int = 1024
    decode_group: int = 8


def graphs(networks: Networks, config: Config) -> dict[str, GraphMaker]:
    """All graphs of the family by name."""
    return StreamingSvdGraphs(networks, config).makers()


@dataclass(frozen=True)
class StreamingSvdGraphs:
    """The graphs of StreamingSVD; each method makes one."""

    networks: Networks
    config: Config

    def makers(self) -> dict[str, GraphMaker]:
        """All graphs by name."""
        first = StepGraphs("first_", self._first_network, RULE, self._chunk, self._first_inputs)
        later = StepGraphs("", self._streaming_network, RULE, self._chunk, self._streaming_inputs)
        named: dict[str, GraphMaker] = {
            "image_encoder": self.image_encoder,
            "vae_encode": self.vae_encode,
            "first_conditions": self.first_conditions,
            "conditions": self.conditions,
            "first_step": first.step,
            "first_half": first.half,
            "step": later.step,
            "half": later.half,
            "update": self.update,
        }
        for group in sorted(set(decode_groups(self.config.frames, self.config.decode_group)), reverse=True):
            named[f"vae_decode_{group}"] = functools.partial(self.vae_decode, group)
        return named

    def image_encoder(self) -> Graph:
        """The context token of an image."""
        module = ImageEncoder(self.networks.tower, self.config.height, self.config.width)
        return Graph("image_encoder", module, {"image": self._pixels(1)}, ("embedding",))

    def vae_encode(self) -> Graph:
        """The latent of an image, not scaled."""
        return Graph("vae_encode", self.networks.image_encoder, {"image": self._pixels(1)}, ("latent",))

    def first_conditions(self) -> Graph:
        """What is constant over the steps of the first chunk."""
        module = ConditionConstants(self.networks.first_unet)
        return Graph("first_conditions", module, self._embedded(), ("context", "label"))

    def conditions(self) -> Graph:
        """What is constant over the steps of a streaming chunk."""
        module = StreamingConstants(self.networks.unet, self.networks.control)
        inputs = {**self._embedded(), "control_frames": self._pixels(self.config.conditional)}
        outputs = ("context", "label", "control_context", "control_label", "control_embedding")
        return Graph("conditions", module, inputs, outputs)

    def update(self) -> Graph:
        """What follows the two halves, of whichever chunk."""
        # The predictions come last, other than in `StepGraphs`, because engine sets were compiled so.
        inputs = {"x": self._chunk(), "guidance": torch.ones(self.config.frames), "coefficients": coefficients()}
        return Graph("update", Update(RULE), inputs | {"uncond": self._chunk(), "cond": self._chunk()}, OUTPUTS)

    def vae_decode(self, group: int) -> Graph:
        """The frames of `group` latents that are decoded together."""
        module = LatentDecoder(self.networks.decoder)
        return Graph(f"vae_decode_{group}", module, {"latents": self._latents(group)}, ("frames",))

    def _first_network(self) -> FirstNetwork:
        return FirstNetwork(self.networks.first_unet)

    def _streaming_network(self) -> StreamingNetwork:
        return StreamingNetwork(self.networks.unet, self.networks.control)

    def _pixels(self, frames: int) -> Tensor:
        return torch.zeros(frames, 3, self.config.height, self.config.width)

    def _latents(self, frames: int) -> Tensor:
        scale = 2 ** (len(self.networks.decoder.up) - 1)
        return torch.zeros(frames, 4, self.config.height // scale, self.config.width // scale)

    def _embedded(self) -> dict[str, Tensor]:
        width = self.networks.first_unet.spec.context_width
        return {"embedding": torch.zeros(1, 1, width), "vector": torch.zeros(VECTOR)}

    def _chunk(self) -> Tensor:
        return self._latents(self.config.frames)

    def _first_inputs(self, halves: int) -> dict[str, Tensor]:
        context, label = _constants(self.networks.first_unet, halves)
        return {"image_latent": self._latents(halves), "context": context, "label": label}

    def _streaming_inputs(self, halves: int) -> dict[str, Tensor]:
        context, label = _constants(self.networks.unet, halves)
        control_context, control_label = _constants(self.networks.control, halves)
        latents = self._latents(self.config.conditional)
        return {
            "image_latent": self._latents(halves),
            "context": context,
            "label": label,
            "control_context": control_context,
            "control_label": control_label,
            "control_embedding": latents.new_zeros(len(latents), self.networks.unet.spec.width, *latents.shape[2:]),
        }


def _constants(unet: VideoEncoder, halves: int) -> tuple[Tensor, Tensor]:
    """Empty context constants and label."""
    return torch.zeros(halves, sum(unet.site_widths())), torch.zeros(1, 4 * unet.spec.width)
