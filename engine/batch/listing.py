"""The jobs of a batch, from a list of them or from a folder of pictures."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from stt2v.engine.batch.outcome import Outcome
from stt2v.engine.errors import InputError, Stt2vError, UsageError
from stt2v.engine.flags import RequestFlags, spelled_flags
from stt2v.engine.job import Job
from stt2v.engine.paths import is_file, is_folder

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
NAMES = {field.name.rstrip("_"): field for field in fields(RequestFlags)}
PATHS = {"image", "from"}
OUTPUT = "output"
SLUG = 40  # characters of a prompt in the name of its video

Row = tuple[str, Mapping[str, Any]]
"""Where a job is listed, and its fields as they stand there."""


@dataclass(frozen=True)
class Listed:
    """The jobs of a list, and how those ended that no job can be made of."""

    jobs: Sequence[Job]
    refused: Sequence[Outcome] = ()


def listed_jobs(source: Path, common: RequestFlags, folder: Path, engines: Path | None = None) -> Listed:
    """The jobs that `source` lists, with videos in `folder`; `common` holds where a job does not say otherwise.

    source: a folder of pictures, a .csv with a head line, or a file with one JSON object a line. Fields are called like
    the flags of a request; paths are relative to the list. `output` names the video's file. Raises InputError for what
    cannot be read as a whole, UsageError for `common`.
    """
    if is_folder(source):
        order = replace(common, image=source).order()
        return Listed(picture_jobs(Job(order.model, order.request, folder, engines, order.repeats)))
    jobs: dict[str, Job] = {}
    refused = []
    for number, (where, row) in enumerate(_rows(source), 1):
        try:
            job = _job(number, row, source.parent, common, folder, engines)
            if job.output.name in jobs:
                raise UsageError(f"output {job.output.name} is that of another job too; name it otherwise")
            jobs[job.output.name] = job
        except Stt2vError as error:
            refused.append(Outcome(where, "failed", str(error)))
    if not jobs and not refused:
        raise InputError(f"list {source} holds no job; write one a line")
    return Listed([*jobs.values()], refused)


def picture_jobs(job: Job) -> list[Job]:
    """`job` for every picture in the folder that it starts from, in the folder `output`. Raises InputError for none."""
    folder = job.folder
    assert folder is not None
    pictures = pictures_in(folder)
    names = Counter(name for picture in pictures for name in (picture.stem, picture.name))
    videos = (f"{picture.stem if names[picture.stem] == 1 else picture.name}.mp4" for picture in pictures)
    return [
        replace(job, request=replace(job.request, image=picture), output=job.output / name)
        for picture, name in zip(pictures, videos, strict=True)
    ]


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in `folder`, by their endings. Raises InputError for none."""
    try:
        pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read ({error.strerror}); give another") from error
    if not pictures:
        raise InputError(f"folder {folder} holds no picture ({', '.join(sorted(PICTURES))}); give another")
    return pictures


def _job(
    number: int, row: Mapping[str, Any], place: Path, common: RequestFlags, folder: Path, engines: Path | None
) -> Job:
    """The job of a list's line `number`. Raises UsageError, InputError."""
    row = {str(name).replace("-", "_"): value for name, value in row.items()}
    if unknown := row.keys() - NAMES.keys() - {OUTPUT}:
        known = ", ".join((OUTPUT, *NAMES))
        raise UsageError(f"field {min(unknown)!r} is not known; choose among {known}")
    said = spelled_flags([word for name in row.keys() - {OUTPUT} for word in _words(name, row[name], place)])
    own = {field.name: getattr(said, field.name) for field in fields(said)}
    given = {name: value for name, value in own.items() if value is not None and value is not False}
    order = replace(common, **given).order()
    about = order.request.prompt or str(getattr(order.request.image, "stem", ""))
    return Job(order.model, order.request, folder / _name(row.get(OUTPUT), number, about), engines, order.repeats)


def _words(name: str, value: Any, place: Path) -> Iterator[str]:
    """A field as words of a command line; an empty cell and `false` say nothing."""
    flag = f"--{name.replace('_', '-')}"
    is_switch = NAMES[name].default is False
    if is_switch and str(value).lower() in ("true", "false"):
        yield from [flag] if str(value).lower() == "true" else []
    elif isinstance(value, list | dict):
        raise UsageError(f"field {name!r} is {json.dumps(value)}, expected text, a number, true or false")
    elif value not in (None, ""):
        yield f"{flag}={place / str(value) if name in PATHS else value}"


def _name(given: Any, number: int, about: str) -> str:
    """The name of a video's file: as given, else a number and what it is about."""
    if not given:
        slug = re.sub(r"\W+", "-", about.lower())[:SLUG].strip("-")
        return f"{number:04}-{slug}.mp4" if slug else f"{number:04}.mp4"
    name = str(given)
    if Path(name).name != name:
        raise UsageError(f"output is {name!r}, expected the name of a file, without a folder")
    return name if Path(name).suffix else f"{name}.mp4"


def _rows(source: Path) -> Iterable[Row]:
    if not is_file(source):
        raise InputError(f"list {source} is neither a file nor a folder; give jobs.jsonl, prompts.csv or pictures")
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"list {source} cannot be read ({error}); give a text file in UTF-8") from error
    return _csv_rows(source, text) if source.suffix.lower() == ".csv" else _json_rows(source, text)


def _csv_rows(source: Path, text: str) -> Iterator[Row]:
    lines, over = io.StringIO(text, newline=""), "more cells than the head line"
    reader = csv.DictReader(lines, restkey=over, restval="", strict=True)  # or an open quote would take in the rest
    try:
        for row in reader:
            yield f"{source} line {reader.line_num}", row
    except csv.Error as error:
        raise InputError(
            f"list {source} is no table after line {reader.line_num} ({error}); mend its quotes"
        ) from error


def _json_rows(source: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{source} line {number}", _fields(line)


def _fields(line: str) -> Mapping[str, Any]:
    """What a line says; one that is no object has a field that no job can have."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = line
    return value if isinstance(value, dict) else {f"{line.strip()[:SLUG]} (no JSON object)": None}
