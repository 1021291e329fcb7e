"""Which layers stay in half precision because FP8 in them hurts: measured, a few layers at a time."""

import bisect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from typing import Any

import torch
from torch import Tensor

from stt2v.engine.parity import LIMITS
from stt2v.export.flat_program import FlatProgram
from stt2v.export.fp8 import FEWEST, layers, quantise

TRIALS = 24  # groups of neighbouring layers of a kind that are tried by themselves, and one more a kind at most
LIMIT = 0.95 * LIMITS["fp8"]  # what is off is estimated
TOUCH = 1 + 2**-9  # about a rounding of bfloat16


def is_for_fp8(program: FlatProgram) -> bool:
    """Whether a program is in precision fp8: then it is in bfloat16 (see `export/precision.py`)."""
    return any(weight.dtype == torch.bfloat16 for weight in program.weights.values())


@torch.no_grad()
def sensitive_layers(
    program: FlatProgram, inputs: Sequence[Tensor], limit: float = LIMIT, fewest: Mapping[Any, int] = FEWEST
) -> tuple[str, ...]:
    """The weights of the layers that have to stay so that, with FP8 in the others, outputs are off by `limit` at most.

    Where all may be in FP8 that takes three runs of the program. Else each is first tried in FP8 by itself (in a large
    network with its neighbours of the same kind, because a run takes seconds). As few as have to stay, those first that
    hurt most for the work that FP8 would speed up: what independent errors add up to is the sum of their squares.

    `limit` is of rel, ||a-b|| / ||b|| of the worst output, against the same in float32. Known is only what the program
    gives in bfloat16, which is off itself, and once more in any other run: whatever is changed, however little, from
    there on bfloat16 rounds otherwise. So that is measured, by half of the square that such runs are apart.
    """
    work = layers(program, fewest)
    names = [*work]
    if not names:
        return ()
    exact = _outputs(program, inputs)
    touched = [value * TOUCH if value.is_floating_point() else value for value in inputs]
    rounding = _worst(_outputs(program, touched), exact) ** 2 / 2

    def off(keep: Sequence[str]) -> float:
        apart = _worst(_outputs(quantise(program, keep, fewest)[0], inputs), exact)
        return math.sqrt(max(0.0, apart**2 - rounding))

    if off(()) <= limit:
        return ()
    groups = [*_neighbours(names, lambda name: _kind(program.weights[name], work[name]), -(-len(names) // TRIALS))]
    alone = {group: off([other for other in names if other not in group]) for group in groups}
    worst = sorted(groups, key=lambda group: -(alone[group] ** 2) / sum(work[name] for name in group))
    order = [*chain.from_iterable(worst)]
    return tuple(order[: bisect.bisect_left(range(len(order)), True, key=lambda count: off(order[:count]) <= limit)])


def _kind(weight: Tensor, work: int) -> tuple[int, ...]:
    """What layers have in common that hurt alike: how many rows or pixels they see, and taps, or else widths."""
    return work // weight.numel(), *(weight.shape[2:] or weight.shape)


def _neighbours(names: Sequence[str], kind: Callable[[str], Any], size: int) -> Iterator[tuple[str, ...]]:
    """Groups of at most `size` of one kind, in their order."""
    for _, alike in groupby(sorted(names, key=kind), kind):
        while group := tuple(islice(alike, size)):
            yield group


def _outputs(program: FlatProgram, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(program.module(*program.weights.values(), *inputs))


def _worst(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The rel of the output that is furthest off."""
    return max(_rel(actual, expected) for actual, expected in zip(found, exact, strict=True))


def _rel(actual: Tensor, expected: Tensor) -> float:
    rel = (actual.float() - expected.float()).norm() / expected.float().norm()
    return float(rel.nan_to_num(torch.inf))  # NaN is neither more nor less than a limit
