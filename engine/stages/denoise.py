"""Denoising: the steps of one chunk (or one clip), whatever the model and solver."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Value, Values
from stt2v.engine.noise import NoiseSource
from stt2v.engine.parallel.group import Call, for_calls, run_all, size_of
from stt2v.engine.solver import COEFFICIENTS, Table
from stt2v.engine.stages.check import check_latents

OnStep = Callable[[int, float, Value], Value]
"""Called after each step with its index, its timestep and the latents; returns the latents to go on with."""


@dataclass(frozen=True)
class StepInputs:
    """What one step of the guidance pair takes: x, [F, C, h, w]; coefficients: [8]; guidance: [F]; float32."""

    x: Value
    coefficients: Array
    guidance: Array
    conditions: Values
    updates: Values


Stepped = tuple[Value, Value]
"""x_next and x0, both [F, C, h, w]."""


class GuidedStep(Protocol):
    """One step of the guidance pair."""

    def __call__(
        self, x: Value, coefficients: Array, guidance: Array, conditions: Values, updates: Values
    ) -> Stepped: ...


class GuidedSteps(GuidedStep, Protocol):
    """Also several at once, which do not depend on each other and may run side by side."""

    def each(self, steps: Iterable[StepInputs]) -> Iterator[Stepped]: ...


class Single:
    """One step as the only one of several."""

    def __call__(
        self: GuidedSteps, x: Value, coefficients: Array, guidance: Array, conditions: Values, updates: Values
    ) -> Stepped:
        (stepped,) = self.each((StepInputs(x, coefficients, guidance, conditions, updates),))
        return stepped


@dataclass(frozen=True)
class FusedStep(Single):
    """Both halves and the update in one engine."""

    engine: Engine

    def each(self, steps: Iterable[StepInputs]) -> Iterator[Stepped]:
        """See `GuidedSteps`."""
        return map(_stepped, run_all(map(self._call, steps)))

    def _call(self, one: StepInputs) -> Call:
        inputs = {"x": one.x, "guidance": one.guidance, "coefficients": one.coefficients, **one.updates}
        return Call(self.engine, inputs, one.conditions)


@dataclass(frozen=True)
class UnguidedStep(Single):
    """A network that is not guided, and the update, in one engine."""

    engine: Engine

    def each(self, steps: Iterable[StepInputs]) -> Iterator[Stepped]:
        """See `GuidedSteps`."""
        calls = (
            Call(self.engine, {"x": one.x, "coefficients": one.coefficients, **one.updates}, one.conditions)
            for one in steps
        )
        return map(_stepped, run_all(calls))


@dataclass(frozen=True)
class HalvedStep(Single):
    """The halves one after the other, or side by side, then the update: the same result.

    Alone it takes less memory for activations than a fused step.
    """

    half: Engine
    update: Engine
    _split: dict[str, tuple[Values, Values, Values]] = field(default_factory=dict, compare=False)

    def each(self, steps: Iterable[StepInputs]) -> Iterator[Stepped]:
        """See `GuidedSteps`."""
        steps, again = for_calls(steps)
        predictions = (made["prediction"] for made in run_all(call for one in steps for call in self._calls(one)))
        for uncond, cond, one in zip(predictions, predictions, again, strict=True):
            inputs = {"x": one.x, "uncond": uncond, "cond": cond, **one.updates}
            yield _stepped(self.update.run({**inputs, "guidance": one.guidance, "coefficients": one.coefficients}))

    def _calls(self, one: StepInputs) -> Iterator[Call]:
        """The unconditional half and the conditional one."""
        for conditions in self._halves(one.conditions):
            yield Call(self.half, {"x": one.x, "coefficients": one.coefficients}, conditions)

    def _halves(self, conditions: Values) -> tuple[Values, Values]:
        """Conditions of each half; the same objects as long as the conditions are the same."""
        last, *_ = self._split.get("last", ({},))
        if last is not conditions:
            self._split["last"] = conditions, self._half_of(conditions, 0), self._half_of(conditions, 1)
        _, uncond, cond = self._split["last"]
        return uncond, cond

    def _half_of(self, conditions: Values, index: int) -> dict[str, Value]:
        """Conditions of one half; those that the halves share pass as they are."""
        shapes = {tensor.name: tensor.shape for tensor in self.half.spec.inputs}
        return {
            name: value if tuple(value.shape) == shapes[name] else np.asarray(value)[index : index + 1]
            for name, value in conditions.items()
        }


def _stepped(outputs: Values) -> Stepped:
    return outputs["x_next"], outputs["x0"]


@dataclass(frozen=True)
class WatchedStep(Single):
    """A step whose latents are looked at, so that a run ends at the first bad step and not after the last chunk."""

    step: GuidedSteps
    stage: str

    def each(self, steps: Iterable[StepInputs]) -> Iterator[Stepped]:
        """See `GuidedSteps`."""
        return ((check_latents(self.stage, x_next), x0) for x_next, x0 in self.step.each(steps))


@dataclass(frozen=True)
class ReplacingStep:
    """A step of which the first frames are known: its estimate of them is replaced by `known`, [n, C, h, w].

    So at every step these frames are what they are known to be, with that step's share of the noise that they began
    with: the replacement method (Ho et al. 2022, "Video diffusion models", section 3.1).
    """

    step: GuidedStep
    known: Array

    def __call__(self, x: Value, coefficients: Array, guidance: Array, conditions: Values, updates: Values) -> Stepped:
        x_next, x0 = (np.array(value) for value in self.step(x, coefficients, guidance, conditions, updates))
        count = len(self.known)
        x_next[:count] += coefficients[COEFFICIENTS.index("k_x0")] * (self.known - x0[:count])
        x0[:count] = self.known
        return x_next, x0


def guided_step(engines: Mapping[str, Engine], name: str = "step") -> WatchedStep:
    """The step called `name` in its fused form where the set has it, else by halves; it raises StageError.

    Where several processes have the engines, a step of the streaming stage is done by halves, side by side: nothing
    else there is independent. Steps of the same shapes share one update engine, called "update".
    """
    stage = "enhance" if name.startswith("enhance") else "denoise"
    if not by_halves(name, engines, size_of(engines)):
        return WatchedStep(FusedStep(engines[name]), stage)
    prefix = name.removesuffix("step")
    own = f"{prefix}update"
    return WatchedStep(HalvedStep(engines[f"{prefix}half"], engines[own if own in engines else "update"]), stage)


def by_halves(name: str, engines: Collection[str], processes: int) -> bool:
    """Whether the step called `name` is done by its halves where so many processes have these engines."""
    apart = processes > 1 and not name.startswith("enhance") and f"{name.removesuffix('step')}half" in engines
    return apart or name not in engines


def fused_steps(engines: Collection[str]) -> list[str]:
    """The fused steps among the names of `engines` that can also be done by halves."""
    return [name for name in engines if name.endswith("step") and f"{name.removesuffix('step')}half" in engines]


def fused_name(name: str) -> str:
    """The name of the fused step where `name` is that of its half, else the same."""
    return f"{name.removesuffix('half')}step" if name.endswith("half") else name


@dataclass(frozen=True)
class Trajectory:
    """What a denoising run is made of besides its conditions.

    table: [steps, 8] as in `engine/solver.py`; guidance: [F], float32; stage and chunk key the noise of the steps.
    """

    table: Table
    guidance: Array
    stage: str
    chunk: int


def denoise(
    step: GuidedStep, start: Array, conditions: Values, run: Trajectory, noise: NoiseSource, on_step: OnStep
) -> Value:
    """All steps of `run` from `start` ([F, C, h, w], already scaled) to the clean latents."""
    x: Value = start
    x0: Value = start
    needs = dict(zip(COEFFICIENTS, np.any(run.table != 0, axis=0), strict=True))
    for index, row in enumerate(run.table):
        updates: dict[str, Value] = {}
        if needs["k_noise"]:
            updates["noise"] = noise.normal(run.stage, run.chunk, index + 1, start.shape)
        if needs["k_previous"]:
            updates["x0_previous"] = x0
        x, x0 = step(x, row.astype(np.float32), run.guidance, conditions, updates)
        x = on_step(index, float(row[1]), x)
    return x
