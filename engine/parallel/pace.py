"""How long calls of an engine take by several processes: the model that `plan` and `bench gpus` share."""

from math import ceil

BANDWIDTH = 8.1e9
"""Bytes a second between two processes, each with a card of its own, as measured on two H100 (bench/RESULTS.md)."""


def side_by_side(calls: int, processes: int, computing: float, wire: float, host: float = 0.0) -> float:
    """The time of `calls` calls that do not depend on each other, in the unit of the times of one call that are given.

    Each process computes a call at the same time; what the host does for each call, and the ways there and back, come
    one after the other, because one process deals out everything.
    """
    rounds = ceil(calls / processes)
    return rounds * computing + calls * host + (calls - rounds) * wire
