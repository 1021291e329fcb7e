"""What a take has in common with the run that it branches from."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stt2v.engine.errors import UsageError
from stt2v.engine.film import STILL
from stt2v.engine.progress import Silent
from stt2v.engine.record import Origin
from stt2v.engine.request import Request
from stt2v.engine.runs.chunks import chunk_unit
from stt2v.engine.runs.folder import all_runs
from stt2v.engine.runs.interrupt import Interrupt
from stt2v.engine.runs.keeping import Keeping
from stt2v.engine.runs.resume import Resumption
from stt2v.engine.runs.run import Run
from stt2v.engine.session import Session

pytest.importorskip("onnxruntime")

PICTURE = Path(__file__).parents[2] / "data" / "landscape.jpg"
REQUEST = Request(prompt="a lighthouse", num_frames=60)


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    with Session.open("tiny") as tiny:
        session = Session(replace(tiny.model, inputs=("image", "prompt")), tiny.engines, tiny.tokenizers)
        yield Keeping(session, tmp_path, Interrupt("finish"), Silent(), discard=False)


@pytest.mark.parametrize(
    ("shared", "image", "units"),
    [
        (2, None, [chunk_unit(0), chunk_unit(1), STILL]),
        (1, PICTURE, [chunk_unit(0)]),
        (0, None, []),
    ],
)
def test_a_take_has_the_chunks_and_the_still(
    keeping: Keeping, tmp_path: Path, shared: int, image: Path | None, units: list[str]
) -> None:
    with keeping.new(REQUEST, tmp_path / "one.mp4") as run:
        for unit in (STILL, *map(chunk_unit, range(3))):
            with run.writing(unit) as path:
                path.write_bytes(b"pixels")
    (kept,) = all_runs(tmp_path)
    take = Resumption(kept, replace(REQUEST, image=image), tmp_path / "two.mp4", shared, Origin(), otherwise=True)
    with pytest.raises(UsageError, match="worked on by another process"), Run(kept.directory), keeping.resumed(take):
        pass
    with Run(kept.directory, shared=True), keeping.resumed(take) as run:  # as while another take is begun
        assert run.finished() == units
        assert all(run.path(unit).samefile(kept.directory / unit) for unit in units)
