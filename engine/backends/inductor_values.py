"""What goes into Inductor's engines and comes out, and its way between host and card: neither waits for later work."""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from stt2v.engine.backends.base import DeviceValue, Value


class TorchValue(DeviceValue):
    """A tensor of PyTorch. made: the event behind what computes it, where a card may still be at work on that."""

    def __init__(self, tensor: Any, made: Any = None) -> None:
        self.tensor = tensor
        self._made = made

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.asarray(self._on_host().numpy(), dtype)
        return array

    def _on_host(self) -> Any:
        """Copied beside the stream of the engines, where the next may run already."""
        if self._made is None:
            return self.tensor.cpu()
        import torch

        stream = _way_back()
        stream.wait_event(self._made)
        with torch.cuda.stream(stream):
            return self.tensor.cpu()


def on_device(value: Value, dtype: str, device: str) -> Any:
    """`value` as a tensor on `device` that is contiguous, however whoever made it laid it out."""
    import torch

    if isinstance(value, TorchValue):
        return value.tensor.to(device).contiguous()
    array = np.asarray(value, dtype)
    given = torch.empty(array.shape, dtype=getattr(torch, dtype), pin_memory=device != "cpu")
    given.numpy()[...] = array
    return given if device == "cpu" else given.to(device, non_blocking=True)  # the card copies when it comes to that


def begun_on(device: str) -> Any:
    """The event behind all that engines on `device` have begun; None where they end before they return."""
    import torch

    return None if device == "cpu" else torch.cuda.current_stream().record_event()


@functools.cache
def _way_back() -> Any:
    import torch

    return torch.cuda.Stream()  # type: ignore[no-untyped-call]
