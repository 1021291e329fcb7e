"""The flags that spell a request, declared once for every command that takes one."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from stt2v.engine.drift import DriftLimits, OnDrift
from stt2v.engine.errors import UsageError
from stt2v.engine.models import DEFAULT_MODEL
from stt2v.engine.models.enhancers import NO_ENHANCER
from stt2v.engine.record import Record, read_record
from stt2v.engine.request import Request

Command = Callable[..., None]


@dataclass(frozen=True)
class Order:
    """What a command line asks for: a request to a model; `repeats` is the record that it makes again.

    given: the fields of the request that were said.
    """

    model: str
    request: Request
    repeats: Record | None = None
    given: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class RequestFlags:
    """The values of the flags, under their names on the command line."""

    prompt: Annotated[
        str | None, typer.Option("--prompt", help="What the video shows; with an image, what the enhancer aims at.")
    ] = None
    image: Annotated[
        Path | None, typer.Option("--image", help="The picture to start from, or a folder: a video for each picture.")
    ] = None
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="MP4", help="Make this video again; other flags override what it was made with."
        ),
    ] = None
    num_frames: Annotated[
        int | None, typer.Option("--num-frames", help="Frames in the file. Default: the model's.")
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Same seed, same video. Default: the model's.")] = None
    fps: Annotated[float | None, typer.Option("--fps", help="Frame rate of the file. Default: the model's.")] = None
    steps: Annotated[int | None, typer.Option("--steps", help="Denoising steps of the streaming stage.")] = None
    guidance: Annotated[
        str | None, typer.Option("--guidance", metavar="MIN:MAX", help="Guidance of a chunk's first and last frame.")
    ] = None
    negative_prompt: Annotated[str | None, typer.Option("--negative-prompt", help="What to keep away from.")] = None
    fit: Annotated[
        Literal["crop", "pad"] | None,
        typer.Option("--fit", help="How an image of another shape meets the model's. Default: crop."),
    ] = None
    enhancer: Annotated[
        str | None, typer.Option("--enhancer", help="vid2vid, i2vgen-xl or none. Default: what the engines hold.")
    ] = None
    no_enhance: Annotated[bool, typer.Option("--no-enhance", help="The same as --enhancer none.")] = False
    window: Annotated[
        int | None, typer.Option("--window", "--chunk-size", help="Frames that the enhancer sees at once.")
    ] = None
    overlap: Annotated[
        int | None, typer.Option("--overlap", "--overlap-size", help="Frames that neighbouring windows share.")
    ] = None
    no_randomized_blending: Annotated[
        bool, typer.Option("--no-randomized-blending", help="Windows that share no frames: hard cuts between them.")
    ] = False
    first_chunk: Annotated[
        str | None,
        typer.Option("--first-chunk", help="Of streaming-t2v: modelscope, animatediff or svd. The others need `t2i`."),
    ] = None
    on_drift: Annotated[
        OnDrift | None,
        typer.Option("--on-drift", help="Measure every chunk; of one outside the limits warn, make it again, or stop."),
    ] = None
    drift_limits: Annotated[
        str | None,
        typer.Option(
            "--drift-limits",
            metavar="NAME=NUMBER,...",
            help=f"Of --on-drift. Default: {DriftLimits().spelled().replace(',', ', ')}.",  # which can be wrapped
        ),
    ] = None
    no_interpolate: Annotated[
        bool, typer.Option("--no-interpolate", help="Generate every frame; do not double the rate.")
    ] = False
    model: Annotated[
        str | None, typer.Option("--model", help=f"One of `stt2v models`. Default: {DEFAULT_MODEL}, or that of --from.")
    ] = None

    def order(self) -> Order:
        """The order that they spell. Raises UsageError, InputError for the file to repeat."""
        given = self._given()
        if self.from_ is None:
            return Order(self.model or DEFAULT_MODEL, Request(**given), given=given)
        record = read_record(self.from_)
        model = self.model or record.model
        return Order(model, record.again(model, given), record, given)

    def _given(self) -> dict[str, Any]:
        """What was said, as fields of a request."""
        if self.no_enhance and self.enhancer not in (None, NO_ENHANCER):
            raise UsageError(f"--no-enhance and --enhancer {self.enhancer} are given; leave one of them out")
        values = {
            "prompt": self.prompt,
            "image": self.image,
            "num_frames": self.num_frames,
            "seed": self.seed,
            "fps": self.fps,
            "steps": self.steps,
            "guidance": _guidance(self.guidance) if self.guidance is not None else None,
            "fit": self.fit,
            "negative_prompt": self.negative_prompt,
            "enhancer": NO_ENHANCER if self.no_enhance else self.enhancer,
            "window": self.window,
            "overlap": self.overlap,
            "blending": False if self.no_randomized_blending else None,
            "interpolate": False if self.no_interpolate else None,
            "on_drift": self.on_drift,
            "drift_limits": DriftLimits.parsed(self.drift_limits) if self.drift_limits is not None else None,
            "first_chunk": self.first_chunk,
        }
        return {name: value for name, value in values.items() if value is not None}


def takes_flags(flags: type[Any], name: str, build: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Give a command the fields of the dataclass `flags` as flags, in place of its parameter `name`.

    That gets what `build` makes of them.
    """

    def decorate(command: Command) -> Command:
        spelled = inspect.signature(flags).parameters
        taken = [
            part
            for own in inspect.signature(command).parameters.values()
            for part in (spelled.values() if own.name == name else [own])
        ]

        @functools.wraps(command)
        def with_flags(**values: Any) -> None:
            command(**{name: build(flags(**{flag: values.pop(flag) for flag in spelled}))}, **values)

        with_flags.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
        with_flags.__annotations__ = {**flags.__annotations__, **command.__annotations__}
        return with_flags

    return decorate


takes_request = takes_flags(RequestFlags, "order", RequestFlags.order)
"""Give a command the flags of a request, and itself the order that they spell."""


def spelled_flags(words: Sequence[str]) -> RequestFlags:
    """The flags of a request that `words` spell, as on a command line. Raises UsageError."""
    spelled: list[RequestFlags] = []
    app = typer.Typer(add_completion=False)

    @app.command()
    @takes_flags(RequestFlags, "flags", lambda flags: flags)
    def command(flags: RequestFlags) -> None:
        """Only spelled."""
        spelled.append(flags)

    try:
        app(list(words), standalone_mode=False)
    except typer.TyperException as error:
        raise UsageError(wrong_words(error)) from error
    return spelled[0]


def wrong_words(error: typer.TyperException) -> str:
    """What is wrong with a command line, and the value that came, which only the error of Pydantic behind it knows."""
    message = error.format_message().rstrip(".")
    came = [repr(each["input"]) for each in getattr(error.__context__, "errors", list)()]
    return ", got ".join([message, *(value for value in came if value not in message)])


def _guidance(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise UsageError(f"--guidance is {text!r}, expected MIN:MAX or one number, such as 1.5:3") from None
