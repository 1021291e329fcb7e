"""The streaming text-to-video network of `mini`: StreamingT2V's UNet, control net, CAM and APM at small width.

One network makes first chunks and later ones: where there is nothing before, control frames and anchor are grey (0).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from stt2v.export.mini.adapt import adapt
from stt2v.export.mini.captions import TOKENS, vocabulary_size
from stt2v.export.models.clip import TextTower
from stt2v.export.models.image_encoder import ImageEncoder
from stt2v.export.models.modelscope_unet import ModelScopeUNet, UNetSpec
from stt2v.export.models.streaming_t2v import ControlNet, ImageTokens, MemorySpec, StreamingUNet
from stt2v.export.models.streaming_t2v_steps import StreamingConstants

CHUNK, CONDITIONAL = 16, 8
SIDE = 64
CONTEXT = 128  # width of text and image tokens
GROUPS = 16
IMAGE_TOKENS = 8
APM_START = 1.0  # where the learned amount of appearance begins; the reference begins with a pretrained UNet and 0

SPEC = UNetSpec(
    widths=(64, 96),
    attention=(True, False),
    layers=1,
    context_width=CONTEXT,
    head_width=16,
    channels_in=16,
    channels_out=16,
)
MEMORY = MemorySpec(cam_channels=SPEC.skip_channels, cam_head_width=16, text_tokens=TOKENS, image_tokens=IMAGE_TOKENS)
SHARED = ("time_embedding", "transformer_in", "mid_block")  # of the UNet; the enhancer's are the same, stored once
FRAME_WIDTHS = (16, 32, 48, 64)


def text_tower() -> TextTower:
    """The text encoder: tokens [B, T] -> [B, T, D]."""
    config = CLIPTextConfig(
        vocab_size=vocabulary_size(),
        hidden_size=CONTEXT,
        intermediate_size=2 * CONTEXT,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=None,
        eos_token_id=None,
    )
    return TextTower(CLIPTextModel(config))


def image_encoder() -> ImageEncoder:
    """The encoder of anchor frames: [N, 3, 64, 64], in [-1, 1] -> [N, 1, D]."""
    config = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        projection_dim=CONTEXT,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=8,
    )
    return ImageEncoder(CLIPVisionModelWithProjection(config), SIDE, SIDE)


class Core(nn.Module):
    """All networks of a chunk, as they are trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.text = text_tower()
        self.image = image_encoder()
        self.tokens = ImageTokens(CONTEXT, CONTEXT, IMAGE_TOKENS)
        self.unet = StreamingUNet(SPEC, MEMORY)
        self.control = ControlNet(SPEC, FRAME_WIDTHS)
        for mix in self.unet.apm:
            nn.init.constant_(mix.get_parameter("alpha"), APM_START)
        adapt(self, GROUPS)
        # In a tuple, since the constants hold the parameters of the networks above.
        self._constants = (StreamingConstants(self.unet, self.control),)

    def keep_shared(self) -> None:
        """Stop learning what the enhancer needs unchanged: the text encoder, and what the UNets share."""
        self.text.requires_grad_(False)
        fix(self.unet)

    def forward(self, x: Tensor, timestep: Tensor, tokens: Tensor, anchor: Tensor, control: Tensor) -> Tensor:
        """Prediction of v for chunks that are noisy to different degrees.

        x: [B, F, C, h, w]; timestep: [B]; tokens: [B, T]; anchor: [B, 3, H, W]; control: [B, Fc, 3, H, W] -> like x.
        """
        text, images = self.text(tokens), self.tokens(self.image(anchor))
        context, control_context, embedding = self._constants[0](text, images, control.flatten(0, 1))
        frames, given = x.shape[1], control.shape[1]
        features = self.control(x[:, :given].flatten(0, 1), given, timestep, control_context, embedding)
        out: Tensor = self.unet(x.flatten(0, 1), frames, timestep, context, features)
        return out.reshape(x.shape)


def fix(unet: ModelScopeUNet) -> None:
    """Stop learning the shared parts of a UNet."""
    for part in SHARED:
        unet.get_submodule(part).requires_grad_(False)


class Enhancer(nn.Module):
    """The same UNet without memories, for latents of twice the side.

    It begins with the streaming network's weights and keeps the `SHARED` ones as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unet = ModelScopeUNet(SPEC)
        adapt(self, GROUPS)
        self._sites = tuple(self.unet.sites())
        self.register_state_dict_post_hook(_without_shared)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_but_shared)  # type: ignore[no-untyped-call]

    def begin(self, core: Core, anew: bool) -> None:
        """Take over the shared parts, or `anew` everything that both have."""
        weights = core.unet.state_dict()
        for name, own in self.unet.state_dict().items():
            if anew or name.startswith(SHARED):
                own.copy_(weights[name].detach())
        fix(self.unet)

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """x: [B, F, C, h, w]; timestep: [B]; text: [B, T, D] -> prediction of v, like x."""
        context = torch.cat([site(text) for site in self._sites], dim=2)
        out: Tensor = self.unet(x.flatten(0, 1), x.shape[1], timestep, context)
        return out.reshape(x.shape)


def _is_shared(key: str) -> bool:
    return key.startswith(tuple(f"unet.{part}." for part in SHARED))


def _without_shared(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: object) -> None:
    """What is saved of an enhancer: its own weights."""
    for key in [key for key in state if _is_shared(key.removeprefix(prefix))]:
        del state[key]


def _but_shared(module: nn.Module, keys: Any) -> None:
    """What may be missing where an enhancer is loaded."""
    keys.missing_keys[:] = [key for key in keys.missing_keys if not _is_shared(key)]
