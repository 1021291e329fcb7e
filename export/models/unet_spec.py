"""The structure of a video UNet as data: read from weights, or given by widths and levels."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BlockSpec:
    """One block of the encoder or decoder: residual block, transformer of `depth` blocks, change of resolution.

    A block without a residual block (`residual=False`) only halves the resolution.
    """

    channels_in: int
    channels_out: int
    depth: int = 0
    residual: bool = True
    upsample: bool = False
    eps: float = 1e-5


@dataclass(frozen=True)
class UNetSpec:
    """The structure of a video UNet, or of the encoder half of one (no `decoder`)."""

    channels_in: int
    width: int
    label_width: int
    context_width: int
    head_width: int
    encoder: tuple[BlockSpec, ...]  # after the first convolution
    middle_depth: int
    decoder: tuple[BlockSpec, ...] = ()
    channels_out: int = 4
    cam_head_width: int | None = None  # None: no mergers

    @property
    def skip_channels(self) -> tuple[int, ...]:
        return (self.width, *(block.channels_out for block in self.encoder))

    def encoder_only(self) -> "UNetSpec":
        """The half that a control branch copies."""
        return replace(self, decoder=(), cam_head_width=None)

    def stock(self) -> "UNetSpec":
        """The same without mergers and with the norm constants of diffusers' SVD-XT, which are not uniform."""
        encoder = tuple(replace(block, eps=1e-6) if block.depth else block for block in self.encoder)
        decoder = tuple(replace(block, eps=1e-6) for block in self.decoder)
        return replace(self, encoder=encoder, decoder=decoder, cam_head_width=None)


def svd_spec(
    width: int = 320,
    multipliers: tuple[int, ...] = (1, 2, 4, 4),
    blocks: int = 2,
    attention_levels: tuple[int, ...] = (0, 1, 2),
    context_width: int = 1024,
    label_width: int = 768,
    head_width: int = 64,
    cam_head_width: int | None = 64,
) -> UNetSpec:
    """The structure of Stable Video Diffusion's UNet at any width; the default is StreamingSVD's.

    blocks: residual blocks a level on the way down, one more on the way up.
    """
    encoder, decoder = [], []
    channels, skips = width, [width]
    for level, multiplier in enumerate(multipliers):
        for _ in range(blocks):
            encoder.append(BlockSpec(channels, width * multiplier, int(level in attention_levels)))
            channels = width * multiplier
            skips.append(channels)
        if level < len(multipliers) - 1:
            encoder.append(BlockSpec(channels, channels, residual=False))
            skips.append(channels)
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for block in range(blocks + 1):
            depth, upsample = int(level in attention_levels), level > 0 and block == blocks
            decoder.append(BlockSpec(channels + skips.pop(), width * multiplier, depth, upsample=upsample))
            channels = width * multiplier
    return UNetSpec(
        channels_in=8,
        width=width,
        label_width=label_width,
        context_width=context_width,
        head_width=head_width,
        encoder=tuple(encoder),
        middle_depth=1,
        decoder=tuple(decoder),
        cam_head_width=cam_head_width,
    )
