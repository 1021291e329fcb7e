"""The training loop that all stages share: a fixed time, a learning rate that ends with it, averaged weights."""

import json
import logging
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

WARM_UP = 0.03  # share of the time in which the learning rate rises
LAST_RATE = 0.02  # share of the learning rate that is left at the end
AVERAGED = 0.1  # share of the steps so far that the weights' moving average reaches back
LOG_EVERY = 25  # steps
SAVE_EVERY = 45.0  # seconds

Curve = list[tuple[float, int, float]]
Module = TypeVar("Module", bound=nn.Module)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """One training run of some minutes from now. `weights` holds what earlier stages made.

    resume: start from this stage's own weights there. A `batch` of 0 is the stage's own.
    """

    minutes: float
    out: Path
    weights: Path
    device: str
    batch: int = 0
    resume: bool = False
    compiled: bool = True
    seed: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        return self.started + 60 * self.minutes

    def precision(self) -> torch.autocast:
        """bfloat16 on a GPU, float32 on a CPU."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def prepared(self, module: nn.Module) -> nn.Module:
        """The module as the loss should call it."""
        return torch.compile(module, dynamic=False) if self.compiled else module  # type: ignore[return-value]


def fit(name: str, module: Module, loss: Callable[[int], Tensor], run: Run, rate: float) -> Module:
    """Minimise `loss` (called with the step's number) over the parameters of `module` until the run's time is over.

    Writes `<name>.safetensors` (float16, averaged weights) and `<name>.json` (the curve) every minute and at the end.
    Returns a copy of the module with the averaged weights.
    """
    if run.resume:
        load(name, module, run.weights)
    module.eval()  # no dropout: no scene is seen often
    averaged = deepcopy(module).requires_grad_(False)
    parameters: list[Tensor] = list(module.parameters())
    average: list[Tensor] = list(averaged.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=run.device == "cuda")
    curve: Curve = []
    begun = saved = time.monotonic()
    step, recent = 0, torch.zeros((), device=run.device)
    while time.monotonic() < run.deadline:
        share = (time.monotonic() - begun) / (run.deadline - begun)
        for group in optimiser.param_groups:
            group["lr"] = rate * rate_share(share)
        value = loss(step)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        torch._foreach_lerp_(average, parameters, 1 / (1 + AVERAGED * step))
        recent += value.detach()
        step += 1
        if step % LOG_EVERY == 0:
            curve.append((time.monotonic() - begun, step, float(recent) / LOG_EVERY))
            recent.zero_()
            logger.info("%s %6.1f s, step %d, loss %.5f", name, *curve[-1])
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            save(name, averaged, run.out, curve)
    save(name, averaged, run.out, curve)
    return averaged


def rate_share(share: float) -> float:
    """The learning rate's share of its peak after a share of the time: up in a line, down in half a cosine."""
    if share < WARM_UP:
        return max(share / WARM_UP, 0.01)
    fall = min((share - WARM_UP) / (1 - WARM_UP), 1.0)
    return LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * fall))


def save(name: str, module: nn.Module, out: Path, curve: Curve | None = None) -> None:
    """Weights, and the loss curve where one is given, into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    halves = {key: value.detach().half().contiguous() for key, value in module.state_dict().items()}
    save_file(halves, out / f"{name}.safetensors")
    if curve is not None:
        (out / f"{name}.json").write_text(json.dumps([[round(value, 5) for value in row] for row in curve]))


def load(name: str, module: nn.Module, weights: Path) -> None:
    """Weights of a stage into a module of float32, all of them. Waits while the stage before is still at work."""
    while not (path := weights / f"{name}.safetensors").exists():
        time.sleep(1)
    module.load_state_dict({key: value.float() for key, value in load_file(path).items()})
