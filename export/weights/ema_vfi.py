"""EMA-VFI's published checkpoint into our modules."""

import itertools

import torch
from torch import Tensor

from stt2v.engine.errors import ExportError
from stt2v.export.models.ema_vfi import EmaVfi, EmaVfiConfig
from stt2v.export.weights.base import Rule, State, load_strict, rename

RULES: tuple[Rule, ...] = ((r"\.dwconv\.dwconv\.", ".dwconv."),)
WRAPPER = "module."  # every weight in the published file was saved through a wrapper of this name
CACHES = ("attn_mask", "HW")  # masks of the last training size, saved by accident
HEAD_WIDTH = 32
WINDOW = 7


def ema_vfi_state(checkpoint: State) -> dict[str, Tensor]:
    """The checkpoint under our keys. With or without the wrapper's prefix; what lies beside the wrapper is left out."""
    wrapped = {key.replace(WRAPPER, ""): tensor for key, tensor in checkpoint.items() if WRAPPER in key}
    state = wrapped or checkpoint
    return rename({key: t for key, t in state.items() if not any(cache in key for cache in CACHES)}, RULES)


def ema_vfi_config(state: State, heads: tuple[int, int] | None = None, window: int = WINDOW) -> EmaVfiConfig:
    """The structure that the shapes of `state` (under our keys) tell.

    They tell neither the number of attention heads nor the window; left out, these are the published model's.

    Raises: ExportError when this is another network, or one too narrow for the published width of a head.
    """
    try:
        width = len(state["feature_bone.block1.conv.0.weight"])
    except KeyError:
        raise ExportError("weights hold no feature_bone.block1.conv.0.weight; use EMA-VFI's checkpoint") from None
    convolutions = [_count(state, f"feature_bone.block{i}.conv.{{}}.weight") // 2 for i in (1, 2, 3)]
    blocks = [_count(state, f"feature_bone.block{i}.{{}}.norm1.weight") for i in (4, 5)]
    heads = heads or (8 * width // HEAD_WIDTH, 16 * width // HEAD_WIDTH)
    if not all(heads):
        raise ExportError(f"EMA-VFI of width {width} is narrower than a head of {HEAD_WIDTH}; name the number of heads")
    return EmaVfiConfig(width, (convolutions[0], convolutions[1], convolutions[2], blocks[0], blocks[1]), heads, window)


def _count(state: State, pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... there are."""
    return sum(1 for _ in itertools.takewhile(state.__contains__, map(pattern.format, itertools.count())))


def load_ema_vfi(checkpoint: State, heads: tuple[int, int] | None = None, window: int = WINDOW) -> EmaVfi:
    """The network with the checkpoint's weights. Raises: ExportError when they do not fit."""
    state = ema_vfi_state(checkpoint)
    config = ema_vfi_config(state, heads, window)
    with torch.device("meta"):
        network = EmaVfi(config)
    return load_strict(network, state)


def original_shapes(config: EmaVfiConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights under the original keys, without the wrapper's prefix."""
    with torch.device("meta"):
        state = EmaVfi(config).state_dict()
    return {key: tuple(t.shape) for key, t in rename(state, ((r"\.dwconv\.", ".dwconv.dwconv."),)).items()}
