"""`mini` as graphs: StreamingT2V's at small width with one network for all chunks, its enhancer, its interpolator."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from stt2v.engine.errors import ExportError
from stt2v.engine.models.model import Enhancing, Model
from stt2v.export.families.steps import OUTPUTS, StepGraphs, coefficients
from stt2v.export.families.streaming_t2v import Config, StreamingT2vGraphs
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.mini.captions import TOKENS
from stt2v.export.mini.interpolator import CONFIG
from stt2v.export.mini.networks import IMAGE_TOKENS, Core, Enhancer
from stt2v.export.mini.vae import BLOCK, CHANNELS, Autoencoder, PatchDecoder, PatchEncoder
from stt2v.export.models.ema_vfi import EmaVfi, MiddleFrame
from stt2v.export.models.streaming_t2v_steps import TextConstants, TextNetwork
from stt2v.export.models.temporal_vae import LATENT_SCALE
from stt2v.export.step import SingleStep, UpdateRule
from stt2v.export.weights.folder import WeightFolder

RULE = UpdateRule()


@dataclass(frozen=True)
class Networks:
    """The networks of the streaming stage and of the enhancer."""

    core: Core
    autoencoder: Autoencoder
    enhancer: Enhancer


def networks_of(source: WeightFolder | None, seed: int) -> Networks:
    """The networks with the weights in a folder (see `export/mini`), or as training begins.

    Raises ExportError when a key is missing or over, or a shape differs.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        networks = Networks(Core(), Autoencoder(), Enhancer())
    if source:
        for name, module in (("core", networks.core), ("vae", networks.autoencoder), ("enhancer", networks.enhancer)):
            _load(module, source, name)
    networks.enhancer.begin(networks.core, anew=source is None)
    for module in vars(networks).values():
        module.eval().requires_grad_(False)
    return networks


def _load(module: nn.Module, source: WeightFolder, name: str) -> None:
    try:
        module.load_state_dict(source.read(name))
    except RuntimeError as error:
        lines = str(error).split("\n")
        raise ExportError(
            f"{name} in {source.path} is not of this version: {lines[-1].strip()}; train it again"
        ) from error


class Decoder(nn.Module):
    """Latents of one group of frames, scaled, [F, C, h, w] -> frames [F, 3, H, W], in [-1, 1]."""

    def __init__(self, decoder: PatchDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, latents: Tensor) -> Tensor:
        frames: Tensor = self.decoder(latents / LATENT_SCALE)
        return frames.clamp(-1.0, 1.0)


class Encoder(nn.Module):
    """image: [N, 3, H, W], in [-1, 1] -> the mode of its latents, scaled, [N, C, h, w]."""

    def __init__(self, encoder: PatchEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor) -> Tensor:
        latents: Tensor = self.encoder(image) * LATENT_SCALE
        return latents


def streaming_graphs(model: Model, networks: Networks) -> Mapping[str, GraphMaker]:
    """The graphs of the streaming stage."""
    config = Config(
        model.chunk,
        model.conditional,
        model.height,
        model.width,
        model.decode_group,
        TOKENS,
        IMAGE_TOKENS,
        model.latent_channels,
    )
    return MiniGraphs(_AsStreamingT2v(networks), config).makers()


class _AsStreamingT2v:
    """The networks under the names that StreamingT2V's graphs know them by."""

    def __init__(self, networks: Networks) -> None:
        core = networks.core
        self.unet, self.control, self.image_tokens = core.unet, core.control, core.tokens
        self.text, self.image = core.text, core.image
        self.encoder, self.decoder = networks.autoencoder.encoder, networks.autoencoder.decoder


@dataclass(frozen=True)
class MiniGraphs(StreamingT2vGraphs):
    """StreamingT2V's graphs but those of a first chunk, around other encoders and another decoder."""

    networks: Any

    def makers(self) -> dict[str, GraphMaker]:
        """All graphs by name. Only the fused step: memory is no matter at this size."""
        whole = (self.text_encoder, self.anchor, self.conditions, self.vae_encode)
        named: dict[str, GraphMaker] = {make.__name__: make for make in whole}
        later = StepGraphs(
            "", self._streaming_network, RULE, lambda: self._latents(self.config.frames), self._streaming_inputs
        )
        return named | {"step": later.step} | self.decoders()

    def vae_encode(self) -> Graph:
        """The frames that condition a chunk."""
        config = self.config
        inputs = {"image": torch.zeros(config.conditional, 3, config.height, config.width)}
        return Graph("vae_encode", Encoder(self.networks.encoder), inputs, ("latents",))

    def _text_tower(self) -> nn.Module:
        return self.networks.text  # type: ignore[no-any-return]

    def _image_encoder(self) -> nn.Module:
        return self.networks.image  # type: ignore[no-any-return]

    def _downscale(self) -> int:
        return BLOCK

    def _decoder(self) -> nn.Module:
        return Decoder(self.networks.decoder)


@dataclass(frozen=True)
class EnhancerGraphs:
    """The graphs of the enhancer."""

    networks: Networks
    how: Enhancing

    def makers(self) -> dict[str, GraphMaker]:
        """All graphs by name."""
        return {
            "enhance_text_encoder": self.text_encoder,
            "enhance_conditions": self.conditions,
            "enhance_vae_encode": self.vae_encode,
            "enhance_vae_decode": self.vae_decode,
            f"enhance_{self.how.window}_step": self.step,
        }

    def text_encoder(self) -> Graph:
        """Negative and positive prompt, as all enhancers take them."""
        tokens = torch.zeros(2, TOKENS, dtype=torch.int64)
        return Graph("enhance_text_encoder", self.networks.core.text, {"tokens": tokens}, ("text",))

    def conditions(self) -> Graph:
        """Keys and values of the positive prompt, the same for all steps and windows."""
        inputs = {"text": torch.zeros(2, TOKENS, self.networks.core.unet.spec.context_width)}
        return Graph("enhance_conditions", PositiveConstants(self.networks.enhancer.unet), inputs, ("context",))

    def vae_encode(self) -> Graph:
        """One picture."""
        inputs = {"image": torch.zeros(1, 3, self.how.height, self.how.width)}
        return Graph("enhance_vae_encode", Encoder(self.networks.autoencoder.encoder), inputs, ("latents",))

    def vae_decode(self) -> Graph:
        """As many frames as a window has."""
        return Graph(
            "enhance_vae_decode", Decoder(self.networks.autoencoder.decoder), {"latents": self._latents()}, ("frames",)
        )

    def step(self) -> Graph:
        """One step of a window."""
        unet = self.networks.enhancer.unet
        context = torch.zeros(1, TOKENS, sum(unet.site_widths()))
        inputs = {"x": self._latents(), "coefficients": coefficients(), "context": context}
        return Graph(f"enhance_{self.how.window}_step", SingleStep(TextNetwork(unet), RULE), inputs, OUTPUTS)

    def _latents(self) -> Tensor:
        return torch.zeros(self.how.window, CHANNELS, self.how.height // BLOCK, self.how.width // BLOCK)


class PositiveConstants(TextConstants):
    """As its parent, of the second text only: [2, T, D] -> context [1, T, K]."""

    def forward(self, text: Tensor) -> Tensor:
        return super().forward(text[1:])


@dataclass(frozen=True)
class InterpolatorGraphs:
    """A graph for each (width, height) of pictures."""

    source: WeightFolder | None
    sizes: tuple[tuple[int, int], ...]

    def makers(self) -> dict[str, GraphMaker]:
        """All graphs by name."""
        return {f"interpolate_{w}x{h}": partial(self.interpolate, w, h) for w, h in self.sizes}

    def interpolate(self, width: int, height: int) -> Graph:
        """One pair of pictures."""
        network = EmaVfi(CONFIG)
        if self.source:
            _load(network, self.source, "interpolator")
        inputs = {name: torch.zeros(1, 3, height, width) for name in ("image0", "image1")}
        return Graph(f"interpolate_{width}x{height}", MiddleFrame(network).eval(), inputs, ("middle",), casts=True)
