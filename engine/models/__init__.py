"""The models: declarations, and how the chunks of each family are conditioned."""

from collections.abc import Mapping
from typing import Final

from stt2v.engine.errors import UsageError
from stt2v.engine.models.mini import MINI
from stt2v.engine.models.model import Model
from stt2v.engine.models.streaming_svd import STREAMING_SVD
from stt2v.engine.models.streaming_t2v import STREAMING_T2V
from stt2v.engine.models.tiny import TINY

MODELS: Final[Mapping[str, Model]] = {model.name: model for model in (MINI, STREAMING_SVD, STREAMING_T2V, TINY)}
DEFAULT_MODEL: Final = MINI.name


def find_model(name: str) -> Model:
    """The model called `name`. Raises UsageError with the names there are."""
    if name not in MODELS:
        raise UsageError(f"model is {name!r}, expected one of {', '.join(sorted(MODELS))}; see `stt2v models`")
    return MODELS[name]
