"""`stt2v models`."""

from collections.abc import Iterator

from stt2v.engine.commands.options import JsonOption
from stt2v.engine.commands.output import say, say_json
from stt2v.engine.media.canvas import cut_size
from stt2v.engine.models import DEFAULT_MODEL, MODELS
from stt2v.engine.models.model import Model


def models(as_json: JsonOption = False) -> None:
    """List the models and their defaults."""
    if as_json:
        say_json({name: model.to_json() for name, model in MODELS.items()})
        return
    for model in MODELS.values():
        for line in _lines(model):
            say(line)


def _lines(model: Model) -> Iterator[str]:
    default = " (default)" if model.name == DEFAULT_MODEL else ""
    yield f"{model.name}{default}: {model.summary}"
    how, enhanced = model.enhancing, ""
    if how:
        width, height = cut_size((model.width, model.height), (how.width, how.height))
        enhanced = f" ({width}x{height} after {how.name})"
    yield (
        f"  from {' or '.join(model.inputs)}, {model.width}x{model.height}{enhanced}, {model.num_frames} frames at"
        f" {model.fps:g} fps, seed {model.seed}"
    )
