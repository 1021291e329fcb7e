"""The training loop that all stages share: a fixed time, a learning rate that ends with it, averaged weights."""

import json
import logging
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

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

    def begin(self, name: str, module: nn.Module) -> None:
        """Go on from the stage's own weights where that is asked for."""
        if self.resume:
            load(name, module, self.weights)

    @property
    def dtype(self) -> torch.dtype:
        """What networks compute in."""
        return torch.bfloat16 if self.device == "cuda" else torch.float32

    def worker(self, module: Module) -> Module:
        """A copy of `module` in `dtype` for the loss to call; `fit` keeps its weights those of the module.

        Without autocast, norms and residual sums stay in bfloat16 too, which is a third of the time.
        """
        copy = deepcopy(module)
        return copy.to(self.dtype)

    def prepared(self, module: nn.Module) -> nn.Module:
        """The module compiled, to be called under `precision()`."""
        return torch.compile(module, dynamic=False) if self.compiled else module  # type: ignore[return-value]


def fit(
    name: str, module: Module, loss: Callable[[int], Tensor], run: Run, rate: float, worker: Module | None = None
) -> Module:
    """Minimise `loss` (called with the step's number) over what `module` learns until the run's time is over.

    Where the loss calls a `worker` (see `Run.worker`), gradients come from there, and new weights go there.

    Writes `<name>.safetensors` (float16, averaged weights) and `<name>.json` (the curve) every minute and at the end.
    Returns a copy of the module with the averaged weights.
    """
    learner = Learner(module, worker or module, run, rate)
    curve: Curve = []
    begun = saved = time.monotonic()
    step, recent = 0, torch.zeros((), device=run.device)
    while time.monotonic() < run.deadline:
        share = (time.monotonic() - begun) / (run.deadline - begun)
        recent += learner.learn(loss(step), rate * rate_share(share), step)
        step += 1
        if step % LOG_EVERY == 0:
            curve.append((time.monotonic() - begun, step, float(recent) / LOG_EVERY))
            recent.zero_()
            logger.info("%s %6.1f s, step %d, loss %.5f", name, *curve[-1])
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            save(name, learner.averaged, run.out, curve)
    save(name, learner.averaged, run.out, curve)
    return learner.averaged


class Learner(Generic[Module]):
    """The weights that are learnt: in float32, as their moving average, and where the loss uses them."""

    def __init__(self, module: Module, worker: Module, run: Run, rate: float) -> None:
        module.eval()  # no dropout: no scene is seen often
        worker.eval()
        self.averaged = deepcopy(module)
        every = zip(module.parameters(), self.averaged.parameters(), worker.parameters(), strict=True)
        learnt = [triple for triple in every if triple[0].requires_grad]
        self._weights, self._average, self._used = map(list, zip(*learnt, strict=True))
        self._apart = worker is not module
        self.averaged.requires_grad_(False)
        self._optimiser = torch.optim.AdamW(
            self._weights, lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=run.device == "cuda"
        )

    def learn(self, loss: Tensor, rate: float, step: int) -> Tensor:
        """One step down the gradient of `loss`, which is returned."""
        loss.backward()  # type: ignore[no-untyped-call]
        if self._apart:
            for weight, used in zip(self._weights, self._used, strict=True):
                weight.grad = None if used.grad is None else used.grad.float()
                used.grad = None
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()
        if self._apart:
            with torch.no_grad():
                torch._foreach_copy_(self._used, self._weights)
        torch._foreach_lerp_(self._average, self._weights, 1 / (1 + AVERAGED * step))
        return loss.detach()


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
