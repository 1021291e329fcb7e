"""The denoising step as graphs: a guidance pair fused with its update, one half alone, the update alone.

Declared once as *network + update* (see `engine/solver.py` for the arithmetic) and captured three ways: `Step` where
memory allows, `Half` and `Update` where the halves run one after the other or on two GPUs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stt2v.engine.solver import COEFFICIENTS


@dataclass(frozen=True)
class UpdateRule:
    """What a solver's update needs besides the latents and the two predictions."""

    noise: bool = False  # takes fresh unit noise every step
    previous: bool = False  # takes the last step's x0 (two-step solvers)
    rescale: float = 0.0  # share of the guided prediction that is rescaled to the conditional one's spread


class Network(nn.Module):
    """What `Step` and `Half` expect of a network.

    forward(x: [B, F, C, h, w], timestep: [], **conditions: leading axis B, or 1 where both halves share) ->
    [B, F, C, h, w], where B is the number of guidance halves in the call (unconditional first).
    """

    def forward(self, x: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        raise NotImplementedError


class Half(nn.Module):
    """One guidance half: input scaling and network.

    x: [F, C, h, w], float32; coefficients: [8], float32; returns prediction: [F, C, h, w], float32.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, coefficients: Tensor, **conditions: Tensor) -> Tensor:
        c_in, timestep = coefficients[0], coefficients[1]
        prediction: Tensor = self.network((x * c_in)[None], timestep, **conditions)
        return prediction[0].float()


class Update(nn.Module):
    """Guidance and solver update.

    x, uncond, cond [, noise, x0_previous]: [F, C, h, w], float32; guidance: [F], float32; coefficients: [8], float32;
    returns x_next and x0, both [F, C, h, w], float32.
    """

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(
        self, x: Tensor, uncond: Tensor, cond: Tensor, guidance: Tensor, coefficients: Tensor, **extra: Tensor
    ) -> tuple[Tensor, Tensor]:
        c = dict(zip(COEFFICIENTS, coefficients.unbind(), strict=True))
        guided = uncond + guidance.view(-1, 1, 1, 1) * (cond - uncond)
        if self.rule.rescale:
            spread = cond.std() / (guided.std() + 1e-12)
            guided = guided * (self.rule.rescale * spread + (1 - self.rule.rescale))
        x0 = c["c_skip"] * x + c["c_out"] * guided
        x_next = c["k_x"] * x + c["k_x0"] * x0
        if self.rule.noise:
            x_next = x_next + c["k_noise"] * extra["noise"]
        if self.rule.previous:
            x_next = x_next + c["k_previous"] * extra["x0_previous"]
        return x_next, x0


class Step(nn.Module):
    """The guidance pair in one call, fused with its update.

    Inputs as for `Half` (conditions for both halves, unconditional first) and `Update`; returns x_next and x0.
    `paired` names the conditions that have two halves, where that is known.
    """

    def __init__(self, network: nn.Module, rule: UpdateRule, paired: frozenset[str] | None = None) -> None:
        super().__init__()
        self.network = network
        self.paired = paired
        self.update = Update(rule)

    def forward(self, x: Tensor, guidance: Tensor, coefficients: Tensor, **extra: Tensor) -> tuple[Tensor, Tensor]:
        conditions, updates = _parted(extra)
        c_in, timestep = coefficients[0], coefficients[1]
        pair = torch.stack([x * c_in] * 2)
        uncond, cond = self.network(pair, timestep, **conditions).float().unbind()
        x_next, x0 = self.update(x, uncond, cond, guidance, coefficients, **updates)
        return x_next, x0


class SingleStep(nn.Module):
    """One step of a network that is not guided. x, coefficients, conditions, results as for `Step`."""

    def __init__(self, network: nn.Module, rule: UpdateRule) -> None:
        super().__init__()
        self.one = Half(network)
        self.update = Update(rule)

    def forward(self, x: Tensor, coefficients: Tensor, **extra: Tensor) -> tuple[Tensor, Tensor]:
        conditions, updates = _parted(extra)
        prediction = self.one(x, coefficients, **conditions)
        x_next, x0 = self.update(x, prediction, prediction, x.new_ones(len(x)), coefficients, **updates)
        return x_next, x0


class HalvesApart(nn.Module):
    """What `Step` does, one guidance half after the other: half of the activations, and more than half of the speed."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.one = Half(step.network)
        self.update = step.update
        self.paired = step.paired or frozenset()

    def forward(self, x: Tensor, guidance: Tensor, coefficients: Tensor, **extra: Tensor) -> tuple[Tensor, Tensor]:
        conditions, updates = _parted(extra)
        uncond, cond = (
            self.one(x, coefficients, **{n: v[i : i + 1] if n in self.paired else v for n, v in conditions.items()})
            for i in (0, 1)
        )
        x_next, x0 = self.update(x, uncond, cond, guidance, coefficients, **updates)
        return x_next, x0


def _parted(extra: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The conditions of the network, and what the update takes besides."""
    names = {"noise", "x0_previous"} & set(extra)
    conditions = {name: value for name, value in extra.items() if name not in names}
    return conditions, {name: extra[name] for name in names}
