"""What is in a video of the world: plain numbers, drawn from a seed, the same on every machine."""

import zlib
from dataclasses import dataclass

import numpy as np

from stt2v.export.mini.atlas import COLOURS, OBJECTS

MOTIONS = ("side", "rise", "circle", "bounce", "pulse", "spin")
BACKGROUNDS = ("pink", "grey", "mint", "sunset", "night", "grass", "water", "sand")

SHORTEST_PERIOD, LONGEST_PERIOD = 8, 16  # frames; one chunk shows at least one period
HELD_OUT = 12  # one combination in so many is never trained on

LOOKS_THE_SAME_TURNED = {"football", "donut", "sunflower", *(f"{colour} circle" for colour in COLOURS)}
BLENDS_IN = {("green", "grass"), ("blue", "water"), ("yellow", "sand"), ("blue", "night"), ("purple", "night")}


@dataclass(frozen=True)
class Scene:
    """One video. Lengths are shares of the frame's side, times are in frames.

    object, motion, background: indices; phase: share of a period; across, down: where the motion's middle is;
    reach: how far it goes; size: side of the sprite; shift, light: of the background's texture.
    """

    object: int
    motion: int
    background: int
    period: float
    phase: float
    across: float
    down: float
    reach: float
    size: float
    shift: float
    light: float


def possible(item: int, motion: int, background: int) -> bool:
    """Whether the combination can be told from its pictures."""
    name, place = OBJECTS[item], BACKGROUNDS[background]
    turns_unseen = MOTIONS[motion] == "spin" and name in LOOKS_THE_SAME_TURNED
    return not turns_unseen and (name.split()[0], place) not in BLENDS_IN


def held_out(item: int, motion: int, background: int) -> bool:
    """Whether a combination is kept for testing; a hash of its names decides."""
    names = f"{OBJECTS[item]}/{MOTIONS[motion]}/{BACKGROUNDS[background]}"
    return zlib.crc32(names.encode()) % HELD_OUT == 0


def combinations(kept_for_testing: bool) -> list[tuple[int, int, int]]:
    """All possible combinations of object, motion, background on one side of the split."""
    every = np.ndindex(len(OBJECTS), len(MOTIONS), len(BACKGROUNDS))
    return [c for c in every if possible(*c) and held_out(*c) == kept_for_testing]


def draw_scene(combination: tuple[int, int, int], random: np.random.Generator) -> Scene:
    """A scene of the combination, with all else left to chance. Nothing leaves the frame."""
    item, motion, background = combination
    shortest = 12 if MOTIONS[motion] == "spin" else SHORTEST_PERIOD
    size = random.uniform(0.42, 0.50)
    reach = random.uniform(0.13, 0.19)
    return Scene(
        object=item,
        motion=motion,
        background=background,
        period=random.uniform(shortest, LONGEST_PERIOD),
        phase=random.uniform(0, 1),
        across=0.5 + random.uniform(-0.04, 0.04),
        down=0.5 + random.uniform(-0.04, 0.04),
        reach=reach,
        size=size,
        shift=random.uniform(0, 1),
        light=random.uniform(0.9, 1.08),
    )
