"""Denoising: the steps of one chunk (or one clip), whatever the model and solver."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stt2v.engine.backends.base import Array, Engine, Value, Values
from stt2v.engine.noise import NoiseSource
from stt2v.engine.solver import COEFFICIENTS, Table
from stt2v.engine.stages.check import check_latents

OnStep = Callable[[int, float, Value], Value]
"""Called after each step with its index, its timestep and the latents; returns the latents to go on with."""


class GuidedStep(Protocol):
    """One step of the guidance pair: returns x_next and x0, both [F, C, h, w]."""

    def __call__(
        self, x: Value, coefficients: Array, guidance: Array, conditions: Values, updates: Values
    ) -> tuple[Value, Value]: ...


@dataclass(frozen=True)
class FusedStep:
    """Both halves and the update in one engine."""

    engine: Engine

    def __call__(
        self, x: Value, coefficients: Array, guidance: Array, conditions: Values, updates: Values
    ) -> tuple[Value, Value]:
        inputs = {"x": x, "guidance": guidance, "coefficients": coefficients, **conditions, **updates}
        outputs = self.engine.run(inputs)
        return outputs["x_next"], outputs["x0"]


@dataclass(frozen=True)
class UnguidedStep:
    """A network that is not guided, and the update, in one engine."""

    engine: Engine

    def __call__(
        self, x: Value, coefficients: Array, guidance: Array, conditions: Values, updates: Values
    ) -> tuple[Value, Value]:
        outputs = self.engine.run({"x": x, "coefficients": coefficients, **conditions, **updates})
        return outputs["x_next"], outputs["x0"]


@dataclass(frozen=True)
class HalvedStep:
    """The halves one after the other, then the update: less memory for activations, the same result."""

    half: Engine
    update: Engine

    def __call__(
        self, x: Value, coefficients: Array, guidance: Array, conditions: Values, updates: Values
    ) -> tuple[Value, Value]:
        uncond, cond = (
            self.half.run({"x": x, "coefficients": coefficients, **self._half_of(conditions, index)})["prediction"]
            for index in (0, 1)
        )
        inputs = {"x": x, "uncond": uncond, "cond": cond, "guidance": guidance, "coefficients": coefficients}
        outputs = self.update.run({**inputs, **updates})
        return outputs["x_next"], outputs["x0"]

    def _half_of(self, conditions: Values, index: int) -> dict[str, Value]:
        """Conditions of one half; those that the halves share pass as they are."""
        shapes = {tensor.name: tensor.shape for tensor in self.half.spec.inputs}
        return {
            name: value if tuple(value.shape) == shapes[name] else np.asarray(value)[index : index + 1]
            for name, value in conditions.items()
        }


@dataclass(frozen=True)
class WatchedStep:
    """A step whose latents are looked at, so that a run ends at the first bad step and not after the last chunk."""

    step: GuidedStep
    stage: str

    def __call__(
        self, x: Value, coefficients: Array, guidance: Array, conditions: Values, updates: Values
    ) -> tuple[Value, Value]:
        x_next, x0 = self.step(x, coefficients, guidance, conditions, updates)
        return check_latents(self.stage, x_next), x0


@dataclass(frozen=True)
class ReplacingStep:
    """A step of which the first frames are known: its estimate of them is replaced by `known`, [n, C, h, w].

    So at every step these frames are what they are known to be, with that step's share of the noise that they began
    with: the replacement method (Ho et al. 2022, "Video diffusion models", section 3.1).
    """

    step: GuidedStep
    known: Array

    def __call__(
        self, x: Value, coefficients: Array, guidance: Array, conditions: Values, updates: Values
    ) -> tuple[Value, Value]:
        x_next, x0 = (np.array(value) for value in self.step(x, coefficients, guidance, conditions, updates))
        count = len(self.known)
        x_next[:count] += coefficients[COEFFICIENTS.index("k_x0")] * (self.known - x0[:count])
        x0[:count] = self.known
        return x_next, x0


def guided_step(engines: Mapping[str, Engine], name: str = "step") -> WatchedStep:
    """The step called `name` in its fused form where the set has it, else by halves; it raises StageError.

    Steps of the same shapes share one update engine, called "update".
    """
    stage = "enhance" if name.startswith("enhance") else "denoise"
    if name in engines:
        return WatchedStep(FusedStep(engines[name]), stage)
    prefix = name.removesuffix("step")
    own = f"{prefix}update"
    return WatchedStep(HalvedStep(engines[f"{prefix}half"], engines[own if own in engines else "update"]), stage)


def fused_steps(engines: Collection[str]) -> list[str]:
    """The fused steps among the names of `engines` that can also be done by halves."""
    return [name for name in engines if name.endswith("step") and f"{name.removesuffix('step')}half" in engines]


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
