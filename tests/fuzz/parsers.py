"""Coverage-guided fuzzing of whatever parses a user's input, by atheris (the extra `fuzz`):

    python tests/fuzz/parsers.py picture -max_total_time=600

The first word is one of `TARGETS`, the others are libFuzzer's. Any error but stt2v's own is a finding, and so is an
input that takes longer than a minute.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import atheris

with atheris.instrument_imports(include=["PIL", "stt2v"]):
    import PIL.Image

    from stt2v.engine.drift import DriftLimits
    from stt2v.engine.errors import Stt2vError
    from stt2v.engine.manifest import MANIFEST, digested, read_manifest
    from stt2v.engine.media.image import load_image
    from stt2v.engine.models import find_model
    from stt2v.engine.models.model import Model
    from stt2v.engine.plan import plan_run
    from stt2v.engine.record import read_record
    from stt2v.engine.request import Request

    PIL.Image.init()

FOLDER = TemporaryDirectory(prefix="stt2v-fuzz-")
FILE = Path(FOLDER.name, "input")
T2V = find_model("streaming-t2v")


def picture(data: bytes) -> None:
    FILE.write_bytes(data)
    load_image(FILE)


def record(data: bytes) -> None:
    with patch("stt2v.engine.record.read_comment", lambda path: data.decode(errors="replace")):
        read_record(FILE).again("tiny", {}).resolve(find_model("tiny"))


def manifest(data: bytes) -> None:
    """Both as it is and with its digest made anew, so that the search gets past it."""
    path = FILE.with_name(MANIFEST)
    path.write_bytes(data)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        path.write_text(digested(value))
    read_manifest(path.parent)


def model(data: bytes) -> None:
    try:
        Model.from_json(json.loads(data))
    except (ValueError, RecursionError, TypeError):  # what the opener of a set turns into its own error
        return


def prompt(data: bytes) -> None:
    text = data.decode(errors="surrogateescape")
    plan_run(T2V, Request(prompt=text).resolve(T2V))


def limits(data: bytes) -> None:
    DriftLimits.parsed(data.decode(errors="replace"))


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (picture, record, manifest, model, prompt, limits)
}


def main() -> None:
    """Fuzz the target that the first word names."""
    target = TARGETS[sys.argv.pop(1)]

    def one(data: bytes) -> None:
        try:
            target(data)
        except Stt2vError as error:
            if "\n" in str(error):
                raise AssertionError("more than one line") from error

    atheris.Setup([*sys.argv, "-timeout=60"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
