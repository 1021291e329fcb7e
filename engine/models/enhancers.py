"""The enhancers by name. Any of them can follow any model; a model's declaration says which one does by default.

That of `mini` follows no other model, so it is known by its declaration alone.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from stt2v.engine.errors import UsageError
from stt2v.engine.models.i2vgen_xl import I2VGEN_XL
from stt2v.engine.models.model import Enhancing, Model
from stt2v.engine.models.vid2vid import VID2VID

ENHANCERS: Final[Mapping[str, Enhancing]] = {how.name: how for how in (I2VGEN_XL, VID2VID)}
NO_ENHANCER: Final = "none"


def choose_enhancer(model: Model, name: str | None) -> Enhancing | None:
    """How `name` refines the videos of `model`: None is the model's own, "none" none at all.

    Raises UsageError with the names there are.
    """
    own = model.enhancing
    if name is None or (own and own.name == name):
        return own
    if name == NO_ENHANCER:
        return None
    if name not in ENHANCERS:
        raise UsageError(f"enhancer is {name!r}, expected one of {', '.join(sorted(ENHANCERS))}, {NO_ENHANCER}")
    return replace(ENHANCERS[name], width=own.width, height=own.height) if own else ENHANCERS[name]
