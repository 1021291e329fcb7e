"""A base video in the files of a run, by chunk and by frame."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from stt2v.engine.models.tiny import TINY
from stt2v.engine.plan import plan_chunks
from stt2v.engine.runs.chunks import Chunks
from stt2v.engine.runs.run import Run
from stt2v.engine.stages.decode import to_uint8

MODEL = replace(TINY, chunk=6, conditional=2, anchor=3)
PLAN = plan_chunks(13, MODEL.chunk, MODEL.conditional)


def test_frames_and_what_the_next_chunk_needs(tmp_path: Path) -> None:
    made = [np.random.default_rng(c.index).uniform(-1, 1, (c.stop - c.start, 3, 4, 6)).astype(np.float32) for c in PLAN]
    with Run(tmp_path) as run:
        chunks = Chunks(run, MODEL, PLAN, 13)
        assert chunks.handover() is None
        for index, frames in enumerate(made):
            chunks.keep(index, frames)
            after = chunks.handover()
            assert after is not None
            assert after.chunk == index + 1
            np.testing.assert_array_equal(after.control, frames[-2:])
            np.testing.assert_array_equal(after.anchor, made[0][3:4])
        assert len(chunks) == 13
        pictures = to_uint8(np.concatenate(made))
        np.testing.assert_array_equal([chunks[index] for index in range(13)], pictures[:13])
        np.testing.assert_array_equal(chunks.frames(1), pictures[6:10])
        run.drop("chunk-0001.safetensors")
        assert chunks.finished == 1
