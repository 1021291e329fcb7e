"""MS-Vid2Vid-XL: ModelScope's UNet over clips of odd heights, where the height halves to one row more."""

from torch import Tensor, nn
from torch.nn import functional

from stt2v.export.models.modelscope_unet import ModelScopeUNet

DOWN_PADDING = (2, 1)  # rows and columns; rows: h -> (h + 1) // 2 + 1


class Vid2VidUNet(ModelScopeUNet):
    """The UNet with a spec of `DOWN_PADDING`. Predicts v; the height must be even on every level but the last."""

    def upsample(self, upsampler: nn.Module, x: Tensor, skip: Tensor) -> Tensor:
        """Twice the size less the first and last row, which undoes the padding: h -> 2 h - 2."""
        out: Tensor = upsampler.get_submodule("conv")(functional.interpolate(x, scale_factor=2.0)[:, :, 1:-1])
        return out
