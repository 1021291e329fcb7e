"""A denoising step as graphs, the same for every family: fused, one guidance half, and the update alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stt2v.engine.solver import COEFFICIENTS
from stt2v.export.graph import Graph, GraphMaker
from stt2v.export.step import Half, Step, Update, UpdateRule

OUTPUTS = ("x_next", "x0")


@dataclass(frozen=True)
class StepGraphs:
    """The graphs `{prefix}step`, `{prefix}half` and `{prefix}update`.

    network: makes one that is called as `Network` says; latents: makes an example of x, [F, C, h, w], anew each time,
    because capture takes one tensor under two names for one input; conditions: makes examples for so many guidance
    halves.
    """

    prefix: str
    network: Callable[[], nn.Module]
    rule: UpdateRule
    latents: Callable[[], Tensor]
    conditions: Callable[[int], Mapping[str, Tensor]]

    def makers(self) -> dict[str, GraphMaker]:
        """All three by name."""
        return {f"{self.prefix}{make.__name__}": make for make in (self.step, self.half, self.update)}

    def step(self) -> Graph:
        """Both guidance halves and the update."""
        single, pair = self.conditions(1), self.conditions(2)
        paired = frozenset(name for name in pair if pair[name].shape != single[name].shape)
        inputs = {"x": self.latents(), **self._update_inputs(), **pair}
        return Graph(f"{self.prefix}step", Step(self.network(), self.rule, paired), inputs, OUTPUTS)

    def half(self) -> Graph:
        """One guidance half."""
        inputs = {"x": self.latents(), "coefficients": coefficients(), **self.conditions(1)}
        return Graph(f"{self.prefix}half", Half(self.network()), inputs, ("prediction",))

    def update(self) -> Graph:
        """What follows the two halves."""
        latents = {name: self.latents() for name in ("x", "uncond", "cond")}
        return Graph(f"{self.prefix}update", Update(self.rule), latents | self._update_inputs(), OUTPUTS)

    def _update_inputs(self) -> dict[str, Tensor]:
        taken = {"noise": self.rule.noise, "x0_previous": self.rule.previous}
        latents = {name: self.latents() for name, needed in taken.items() if needed}
        return {"guidance": torch.ones(len(self.latents())), "coefficients": coefficients(), **latents}


def coefficients() -> Tensor:
    """An example of one row of the solver's table."""
    return torch.zeros(len(COEFFICIENTS))
