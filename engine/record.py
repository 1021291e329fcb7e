"""The record of how a video was made, which travels in its file, and the way back from there to a request."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stt2v.engine.drift import Drifting
from stt2v.engine.errors import InputError, UsageError
from stt2v.engine.media.image import Fit, image_hash
from stt2v.engine.media.read import read_comment
from stt2v.engine.models.enhancers import NO_ENHANCER
from stt2v.engine.models.model import Denoising, Enhancing
from stt2v.engine.paths import is_file
from stt2v.engine.request import Request
from stt2v.engine.typed_json import read_as

if TYPE_CHECKING:
    from stt2v.engine.session import Session

NOT_COMPARED = {"command", "image_path"}
KEPT_BY_OTHER_MODELS = {"prompt", "negative_prompt", "image", "fit", "seed"}
SAME_AS_IN_SETTINGS: Mapping[str, Any] = {
    "prompt": str | None,
    "num_frames": int,
    "seed": int,
    "fps": float,
    "fit": Fit,
    "negative_prompt": str | None,
    "interpolate": bool,
    "first_chunk": str | None,
}
HASH_LENGTH, SHOWN = 64, 12  # hexadecimal digits


@dataclass(frozen=True)
class Earlier:
    """What a take goes on from: the first `chunks` chunks of `video`, which `command` made; perhaps a take itself."""

    chunks: int
    video: str
    command: str
    earlier: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Origin:
    """Where a video comes from, when that is not its request alone: where its picture was, and what it goes on from."""

    picture: Path | None = None
    earlier: Earlier | None = None


def record_json(session: "Session", request: Request, origin: Origin, output: Path | None = None) -> str:
    """The record of the video that `session` makes of `request`: its settings, where it comes from, and a command.

    The command spells every setting, so that a later default does not change what it makes; that of a take, which is
    another file than what it goes on from, also the name of `output`.
    Raises UsageError for a request that cannot be, InputError for its picture.
    """
    made = session.settings(request) | placed(request, origin)
    return json.dumps(made | {"command": command_of(made, output.name if output and origin.earlier else None)})


def placed(request: Request, origin: Origin) -> dict[str, Any]:
    """What a record says of where a video comes from."""
    where: dict[str, Any] = {}
    if isinstance(request.image, Path):
        where["image_path"] = str((origin.picture or request.image).absolute())
    if origin.earlier:
        where["earlier"] = asdict(origin.earlier)
    return where


def command_of(made: Mapping[str, Any], output: str | None = None) -> str:
    """The command that makes what a record is of, at `output`. Raises KeyError or TypeError when it is none."""
    picture, earlier = made.get("image_path"), made.get("earlier")
    words = [command_line(made["model"], replace(_request(made), image=Path(picture) if picture else None))]
    if earlier:
        words.append(shlex.join([f"--resume={earlier['video']}", f"--from-chunk={earlier['chunks']}"]))
    if output:
        words.append(shlex.join([f"--output={output}"]))
    return " ".join(words)


def command_line(model: str, request: Request) -> str:
    """The command that makes the video of `request`, whatever the folder it is typed in."""
    asked = ((field.name, getattr(request, field.name), field.default) for field in fields(request))
    words = [_word(name, value) for name, value, default in asked if value not in (default, None)]
    return shlex.join(["stt2v", "generate", f"--model={model}", *filter(None, words)])


def _word(name: str, value: Any) -> str:
    match name, value:
        case "blending", False:
            return "--no-randomized-blending"
        case "interpolate", _:
            return "" if value else "--no-interpolate"
        case "guidance", (low, high):
            return f"--guidance={low}:{high}"
        case "drift_limits", _:
            return f"--drift-limits={value.spelled()}"
        case "image", _:
            return f"--image={value.absolute()}" if isinstance(value, Path) else ""
    return f"--{name.replace('_', '-')}={value}"


@dataclass(frozen=True)
class Record:
    """What the file `path` says of how it was made: `made` as it stands there, `request` without its picture."""

    path: Path
    model: str
    request: Request
    made: Mapping[str, Any]

    @property
    def earlier(self) -> Earlier | None:
        """What it goes on from, where it is a take."""
        earlier: Earlier | None = read_as(Earlier | None, self.made.get("earlier"))
        return earlier

    def again(self, model: str, given: Mapping[str, Any]) -> Request:
        """The request that makes the video again with `model`, the fields in `given` in place of the recorded ones.

        Another model takes over what every model has: prompts, picture, fit and seed. Raises InputError when the
        picture is neither given nor where it was.
        """
        kept = {name: getattr(self.request, name) for name in self._kept(model)} | dict(given)
        if "enhancer" in given and given["enhancer"] != self.request.enhancer:
            kept |= {name: given.get(name) for name in ("window", "overlap")}
        if not kept.get("blending", True):
            kept["overlap"] = given.get("overlap")
        if "image" not in given and self.made.get("image"):
            kept["image"] = self._picture()
        return Request(**kept)

    def differences(self, now: Mapping[str, Any]) -> Iterator[str]:
        """What is not here as it was, a line each; now: the settings of today."""
        was, here = dict(flat(self.made)), dict(flat(json.loads(json.dumps(now))))
        for name in sorted((was.keys() & here.keys()) - NOT_COMPARED):
            if was[name] != here[name]:
                yield f"{self.path} was made with {name} {_shown(was[name])}, here it is {_shown(here[name])}"

    def _kept(self, model: str) -> set[str]:
        return {field.name for field in fields(Request)} if model == self.model else KEPT_BY_OTHER_MODELS

    def _picture(self) -> Path:
        """The picture where it was, if it is still the same. Raises InputError."""
        where = self.made.get("image_path")
        path = Path(where or "")
        if not is_file(path):
            raise InputError(f"the picture of {self.path} is not at {where} any more; give it by --image")
        if image_hash(path) != self.made["image"]:
            raise InputError(f"{path} is not the picture that {self.path} was made of (another hash); give --image")
        return path


def read_record(path: Path) -> Record:
    """The record in the video `path`. Raises InputError for a file without one, and for a take, which needs another."""
    text = read_comment(path)
    try:
        record = record_of(path, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise _no_record(path) from error
    if record.earlier:
        raise InputError(
            f"video {path} is a take that goes on after {record.earlier.chunks} chunks of {record.earlier.video}; make"
            f" that by `{record.earlier.command}`, then this by `{command_of(record.made, path.name)}`"
        )
    return record


def record_of(path: Path, made: Any) -> Record:
    """The record of `path` that says `made`. Raises InputError when that is no record."""
    try:
        record = Record(path, read_as(str, made["model"]), _request(made), made)
        _ = record.earlier, read_as(str | None, made.get("image_path"))
        return record
    except (ValueError, TypeError, KeyError, RecursionError, UsageError) as error:
        raise _no_record(path) from error


def _no_record(path: Path) -> InputError:
    return InputError(
        f"video {path} carries no settings; it was made with --no-metadata, or not by stt2v, or changed since"
    )


def _request(made: Mapping[str, Any]) -> Request:
    """The request that resolves to the settings in `made`. Raises KeyError or TypeError for anything else."""
    streaming: Denoising = read_as(Denoising, made["streaming"])
    enhancing: Enhancing | None = read_as(Enhancing | None, made["enhancing"])
    drifting: Drifting | None = read_as(Drifting | None, made.get("drifting"))
    request = Request(
        **{name: read_as(kind, made[name]) for name, kind in SAME_AS_IN_SETTINGS.items()},
        steps=streaming.steps,
        guidance=streaming.guidance,
        enhancer=enhancing.name if enhancing else NO_ENHANCER,
        on_drift=drifting.action if drifting else None,
        drift_limits=drifting.limits if drifting else None,
    )
    return replace(request, window=enhancing.window, overlap=enhancing.overlap) if enhancing else request


def flat(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted names."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: object) -> str:
    return value[:SHOWN] if isinstance(value, str) and len(value) == HASH_LENGTH else json.dumps(value)
