"""From a request to a file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import fake_session

from stt2v.engine.media.read import count_frames
from stt2v.engine.progress import Silent
from stt2v.engine.record import read_record
from stt2v.engine.request import Request
from stt2v.engine.runs.chunks import chunk_unit
from stt2v.engine.runs.interrupt import StopEarly
from stt2v.engine.runs.run import Run, scratch_run
from stt2v.engine.videos import generate_video


@contextmanager
def stopped_after_two_chunks(request: Request, output: Path) -> Iterator[Run]:
    def on_unit(unit: str) -> None:
        if unit == chunk_unit(1):
            raise StopEarly

    with scratch_run() as run:
        run.on_unit = on_unit
        yield run


def test_a_video_that_ended_early_says_how_to_make_it_again(tmp_path: Path) -> None:
    session, output = fake_session("mini", None, Silent()), tmp_path / "out.mp4"
    prompt = "a cat; 0: bouncing; 16: spinning; 3s: on grass"
    request = Request(prompt=prompt, num_frames=64, enhancer="none", interpolate=False, steps=1)
    made = generate_video(session, request, output, Silent(), open_run=stopped_after_two_chunks)
    assert (made.plan.num_frames, made.ended, count_frames(output)) == (24, "as asked", 24)
    again = read_record(output).again("mini", {})
    assert again.prompt == "a cat; 0: bouncing; 16: spinning"
    assert session.plan(again) == made.plan
