"""Keeping what the parts of a network return."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def tapped(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """The last output of each module while the context lasts, under the given names."""
    outputs: dict[str, Tensor] = {}

    def tap(name: str):
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            outputs[name] = output

        return keep

    handles = [module.register_forward_hook(tap(name)) for name, module in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def numbered(pattern: str, modules: nn.ModuleList) -> dict[str, nn.Module]:
    """`pattern.format(0)` for the first module, and so on."""
    return {pattern.format(index): module for index, module in enumerate(modules)}
