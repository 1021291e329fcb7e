"""stt2v: long videos from StreamingSVD and StreamingT2V, compiled.

video = stt2v.generate("photo.jpg", seed=7)
video.frames[0]  # [F, H, W, 3], uint8

with stt2v.Session.open("tiny") as session:
    for chunk in session.generate(stt2v.Request(image=Path("photo.jpg"))):
        chunk.frames  # [F, H, W, 3], uint8
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stt2v.engine.api import generate as generate
    from stt2v.engine.drift import DriftLimits as DriftLimits
    from stt2v.engine.errors import Stt2vError as Stt2vError
    from stt2v.engine.request import Request as Request
    from stt2v.engine.session import Session as Session

__version__ = "0.1.0"
__all__ = ["DriftLimits", "Request", "Session", "Stt2vError", "__version__", "generate"]

_HOMES = {
    "DriftLimits": "stt2v.engine.drift",
    "Request": "stt2v.engine.request",
    "Session": "stt2v.engine.session",
    "Stt2vError": "stt2v.engine.errors",
    "generate": "stt2v.engine.api",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for: `import stt2v` alone stays instant."""
    if name not in _HOMES:
        raise AttributeError(f"module 'stt2v' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
